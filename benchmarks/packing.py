"""Time of a forward and backward pass with, and without, the padding of a batch, beside that of its matrix products.

    OMP_NUM_THREADS=1 python -m benchmarks.packing --tasks sst2 mrpc stsb --data-dir path/to/glue

Processor seconds per batch of 32 texts of a task (generated ones without ``--data-dir``), all forms in turn in one
process, median over the repeats, and as a multiple of the limit: 6 operations per parameter of the layers and token, at
the rate of a product of two 1 024 x 1 024 matrices in between. Matrices are multiplied by the library that a run takes.
``--families`` measures a classifier of every family named, of MiniLM's size with random weights, or of a folder:

    OMP_NUM_THREADS=1 python -m benchmarks.packing --families bert mpnet --tasks sst2 --data-dir path/to/glue

``--shapes`` prints the time of what is chosen by itself beside the padded batch's over batches of many shapes, and
``--costs`` what packing costs per layer where there is little to save, from which the constants of
lightning_modules/batches/packing.py were rounded. ``--compiled`` prints seconds per batch, one after the other, as it
comes, under bfloat16's autocast and compiled, with those of the compiler's processes.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import CONFIG_MAPPING, AutoModelForSequenceClassification

from benchmarks import markdown
from datamodules import GLUEDataModule
from lightning_modules import SequenceClassifier
from lightning_modules.batches.length_split import split_by_length
from lightning_modules.batches.packed_batch import PackedBatch
from lightning_modules.batches.packing import Form, Packing
from lightning_modules.batches.padding import Padding
from lightning_modules.models.cpu_products import products_of_a_run
from lightning_modules.models.tiny_input import module_order
from optimizers.named_parts import layer_modules

MINILM = "offline:all-MiniLM-L6-v2"
FORMS = ("padded", "4 parts", "linear layers packed", "layers packed")  # of MiniLM, a BERT
# Least and most tokens of a text, and widths of a model with its heads of attention: shapes that are measured.
SPREADS = {"short even": (8, 8), "short uneven": (3, 40), "long even": (92, 96), "long uneven": (12, 128)}
WIDTHS = ((64, 2), (192, 6), (384, 12), (384, 6), (768, 12))
# How a family's configuration calls width, layers, heads and the width within a layer, and what else it needs.
_NAMES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
FAMILIES: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "bert": (_NAMES, {}),
    "roberta": (_NAMES, {"pad_token_id": 1}),
    "distilbert": (("dim", "n_layers", "n_heads", "hidden_dim"), {}),
    "mpnet": (_NAMES, {"pad_token_id": 1}),
    "deberta-v2": (
        _NAMES,
        {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 256, "share_att_key": True},
    ),
    "modernbert": (_NAMES, {"pad_token_id": 0, "cls_token_id": 1, "sep_token_id": 2}),
    "gpt2": (("n_embd", "n_layer", "n_head", "n_inner"), {"pad_token_id": 0}),
    "llama": (_NAMES, {"pad_token_id": 0}),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=["sst2"])
    parser.add_argument("--data-dir")
    parser.add_argument("--model", default=MINILM)
    parser.add_argument("--families", nargs="+", help=f"of {', '.join(FAMILIES)}, or folders of models")
    parser.add_argument("--batches", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--shapes", action="store_true")
    parser.add_argument("--costs", action="store_true")
    parser.add_argument("--compiled", action="store_true")
    with products_of_a_run():
        print_tables(parser.parse_args(arguments))


def print_tables(options: argparse.Namespace) -> None:
    """Print the tables that were asked for."""
    if options.costs:
        print_costs(options.repeats)
    elif options.shapes:
        print_shapes(options.families or ["bert"], options.repeats)
    elif options.families:
        print_families(options)
    elif options.compiled:
        print_compiled(options)
    else:
        for task in options.tasks:
            print_task(task, options)


def data_of(task: str, options: argparse.Namespace) -> tuple[GLUEDataModule, list[dict[str, Tensor]]]:
    """Return a task and the inputs of some of its batches."""
    data = GLUEDataModule(
        task,
        source=None if options.data_dir else "synthetic",
        data_dir=options.data_dir,
        max_train_samples=32 * options.batches,
        max_eval_samples=32,
        tokenizer=options.model,
    )
    data.prepare_data()
    data.setup("fit")
    torch.manual_seed(0)
    inputs = ("input_ids", "attention_mask")
    return data, [{name: batch[name] for name in inputs} for batch in data.train_dataloader()]


def print_task(task: str, options: argparse.Namespace) -> None:
    """Print seconds per batch of a task, form by form."""
    data, batches = data_of(task, options)
    model = SequenceClassifier(options.model, num_labels=data.num_labels).model
    layers = layer_modules(model)
    packings = packings_of(model)
    rate: list[float] = []
    seconds: dict[str, list[float]] = {form: [] for form in FORMS}
    for _ in range(options.repeats):
        rate.append(products_per_second())
        for form in FORMS:
            seconds[form].append(processor_seconds(partial(run_all, model, batches, form, packings)) / len(batches))
    tokens = mean_tokens(batches)
    places = sum(batch["attention_mask"].numel() for batch in batches) / len(batches)
    limit = seconds_of_products(layers, batches, statistics.median(rate))
    print(f"{task}: {tokens:.0f} tokens in {places:.0f} places; products at {statistics.median(rate):.3g} per second")
    for form in FORMS:
        median = statistics.median(seconds[form])
        spread = f"{min(seconds[form]):.3f} to {max(seconds[form]):.3f}"
        print(f"  {form:22} {median:.3f} s ({spread}), {median / limit:.2f} x the products' {limit:.3f} s")


def print_families(options: argparse.Namespace) -> None:
    """Print a table of seconds per batch, padded and as chosen by itself, of every family and task."""
    columns = ["model", "task", "packed", "padded, s", "as chosen, s", "times padded", "times the products"]
    print(markdown.head(columns, numbers=True))
    for family, task in product(options.families, options.tasks):
        data, batches = data_of(task, options)
        if family in FAMILIES:
            model = family_model(family, num_labels=data.num_labels)
        else:
            model = SequenceClassifier(family, num_labels=data.num_labels).model
        packing = packing_of(model)
        # Special tokens are elsewhere in other vocabularies; what is computed takes as long.
        pad = getattr(model.config, "pad_token_id", 0) or 0
        for batch in batches:
            batch["input_ids"] = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, pad)
        padded, chosen, rates = [], [], []
        for _ in range(options.repeats):
            padded.append(processor_seconds(partial(run_chosen, model, batches, None)) / len(batches))
            chosen.append(processor_seconds(partial(run_chosen, model, batches, packing)) / len(batches))
            rates.append(products_per_second())
        limit = seconds_of_products(packing.layers, batches, max(rates))
        form = packing.form if any(packing.pays(batch["attention_mask"]) for batch in batches) else "nothing"
        one, other = min(padded), min(chosen)
        cells = [f"{one:.3f}", f"{other:.3f}", f"{other / one:.2f}", f"{other / limit:.2f}"]
        print(markdown.row([Path(family).name, task, form, *cells]), flush=True)


def print_compiled(options: argparse.Namespace) -> None:
    """Print the seconds of each batch of the first task, uncompiled and compiled, in float32 and bfloat16."""
    data, batches = data_of(options.tasks[0], options)
    for is_compiled in (False, True):
        model = SequenceClassifier(options.model, num_labels=data.num_labels, compile=is_compiled).train()
        for precision in ("float32", "float32", "bfloat16", "bfloat16"):
            found = []
            for batch in batches:
                model.zero_grad()
                started = seconds_with_children()
                with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
                    loss = model(batch).square().mean()
                loss.backward()
                found.append(f"{seconds_with_children() - started:.2f}")
            print(f"{'compiled' if is_compiled else 'as it comes'}, {precision}: {' '.join(found)}", flush=True)


def seconds_with_children() -> float:
    """Return the processor seconds of this process and of those that it has started and that have ended."""
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def print_shapes(families: Sequence[str], repeats: int) -> None:
    """Print the time of what is chosen by itself beside that of the padded batch, over batches of many shapes."""
    ratios: dict[str, float] = {}
    for family, (width, heads) in product(families, WIDTHS):
        model = family_model(family, width, depth=2, heads=heads)
        packing = packing_of(model)
        for (name, (least, most)), texts in product(SPREADS.items(), (1, 4, 16, 64)):
            lengths = torch.linspace(least, most, texts).long()
            mask = (torch.arange(int(lengths.max())) < lengths[:, None]).long()
            shape = f"{family}, {width} wide, {heads} heads, {texts} texts, {name}"
            if not packing.pays(mask):
                print(f"{shape}: as it is", flush=True)
                continue
            batch = {"input_ids": torch.randint(5, 1000, mask.shape) * mask, "attention_mask": mask}
            batches = [batch] * max(1, 2048 // mask.numel())
            padded, chosen = [], []
            for _ in range(repeats):
                padded.append(processor_seconds(partial(run_chosen, model, batches, None)))
                chosen.append(processor_seconds(partial(run_chosen, model, batches, packing)))
            ratios[shape] = min(chosen) / min(padded)
            print(f"{shape}: {packing.form} packed, {ratios[shape]:.2f} x padded", flush=True)
    for worst in sorted(ratios, key=ratios.__getitem__)[-3:]:
        print(f"slowest: {worst}, {ratios[worst]:.2f} x padded")


def family_model(family: str, width: int = 384, depth: int = 6, heads: int = 12, num_labels: int = 2) -> nn.Module:
    """Return a classifier with random weights, by default of MiniLM's size."""
    torch.manual_seed(0)
    names, more = FAMILIES[family]
    sizes: dict[str, Any] = dict(zip(names, (width, depth, heads, 4 * width), strict=True))
    settings: dict[str, Any] = sizes | more | {"vocab_size": 30522, "num_labels": num_labels}
    config = CONFIG_MAPPING[family](**settings)
    return AutoModelForSequenceClassification.from_config(config).train()


def packing_of(model: nn.Module) -> Packing:
    """Return how a run packs a model."""
    side: Literal["right", "left"] = "right" if Padding(model).is_free("right") else "left"
    return Packing(model, layer_modules(model, module_order(model)), side)


def run_chosen(model: Any, batches: list[dict[str, Tensor]], packing: Packing | None) -> None:
    """Compute the gradients of all batches, packed or not as a run would."""
    for batch in batches:
        model.zero_grad()
        with nullcontext() if packing is None else packing.of(batch["attention_mask"]):
            logits = model(**batch).logits
        logits.square().mean().backward()


def packings_of(model: nn.Module) -> dict[str, Packing]:
    """Return how to pack, by form."""
    layers = layer_modules(model)
    forms: dict[str, Form] = {"linear layers packed": "linear", "layers packed": "layers"}
    return {name: Packing(model, layers, forms=[form]) for name, form in forms.items()}


def run_all(model: nn.Module, batches: list[dict[str, Tensor]], form: str, packings: dict[str, Packing]) -> None:
    """Compute the gradients of all batches."""
    for batch in batches:
        model.zero_grad()
        for part in split_by_length(batch, 4 if form == "4 parts" else 1):
            gradients(model, part, packings.get(form))


def gradients(model: Any, batch: dict[str, Tensor], packing: Packing | None) -> None:
    """Add the gradients of a batch."""
    with nullcontext() if packing is None else packing.of(batch["attention_mask"], always=True):
        logits = model(**batch).logits
    logits.square().mean().backward()


def print_costs(repeats: int) -> None:
    """Print microseconds per layer beyond those of the padded batch, and what the products of padding would take."""
    for width, depth in ((64, 2), (128, 4), (384, 6)):
        model = family_model("bert", width, depth, heads=max(2, width // 32))
        packings = packings_of(model)
        for texts, length in ((32, 5), (32, 24), (8, 96)):
            # All but one equally long: there is nothing to save, and the shorter one has to be looked after.
            mask = (torch.arange(length) < torch.tensor([length] * (texts - 1) + [length - 1])[:, None]).long()
            batch = {"input_ids": torch.randint(5, 1000, mask.shape), "attention_mask": mask}
            found = {
                form: min(
                    processor_seconds(partial(run_all, model, [batch] * 5, form, packings)) / 5 for _ in range(repeats)
                )
                for form in ("padded", "linear layers packed", "layers packed")
            }
            more = {form: (each - found["padded"]) / depth * 1e6 for form, each in found.items() if form != "padded"}
            described = ", ".join(f"{form} {each:+.0f}" for form, each in more.items())
            blocks, per_layer = PackedBatch(mask).blocks, found["padded"] / depth * 1e6
            print(
                f"width {width}, {texts} texts of {length} tokens, {blocks} blocks: per layer {described} "
                f"microseconds beside {per_layer:.0f}",
                flush=True,
            )


def mean_tokens(batches: Sequence[dict[str, Tensor]]) -> float:
    """Return the number of tokens in a batch."""
    return statistics.fmean(int(batch["attention_mask"].sum()) for batch in batches)


def seconds_of_products(layers: Sequence[nn.Module], batches: Sequence[dict[str, Tensor]], rate: float) -> float:
    """Return the limit: the seconds that the products of a batch take at so many operations per second."""
    return 6 * sum(each.numel() for layer in layers for each in layer.parameters()) * mean_tokens(batches) / rate


def products_per_second() -> float:
    """Return operations per processor second of a product of two matrices."""
    one = torch.randn(1024, 1024)
    return 20 * 2 * 1024**3 / processor_seconds(lambda: [one @ one for _ in range(20)])


def processor_seconds(run: Callable[[], Any]) -> float:
    """Return the processor seconds that a call takes."""
    started = time.process_time()
    run()
    return time.process_time() - started


if __name__ == "__main__":
    main()
