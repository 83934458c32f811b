"""Time of a forward and backward pass with, and without, the padding of a batch, beside that of its matrix products.

OMP_NUM_THREADS=1 python -m benchmarks.packing --tasks sst2 mrpc stsb --data-dir path/to/glue

Processor seconds per batch of 32 texts of a task (generated ones without ``--data-dir``), all forms in turn in one
process, median over the repeats, and as a multiple of the limit: 6 operations per parameter of the layers and token, at
the rate of a product of two 1 024 x 1 024 matrices in between. With ``--costs``: what packing costs per layer where
there is little to save, from which the constants of lightning_modules/packing.py were rounded.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification

from datamodules import GLUEDataModule
from lightning_modules import SequenceClassifier
from lightning_modules.length_split import split_by_length
from lightning_modules.packing import Form, Packing
from optimizers.named_parts import layer_modules

FORMS = ("padded", "4 parts", "linear layers packed", "layers packed")


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=["sst2"])
    parser.add_argument("--data-dir")
    parser.add_argument("--model", default="offline:all-MiniLM-L6-v2")
    parser.add_argument("--batches", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--costs", action="store_true")
    options = parser.parse_args(arguments)
    if options.costs:
        print_costs(options.repeats)
        return
    for task in options.tasks:
        print_task(task, options)


def print_task(task: str, options: argparse.Namespace) -> None:
    """Print seconds per batch of a task, form by form."""
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
    model = SequenceClassifier(options.model, num_labels=data.num_labels).model
    layers = layer_modules(model)
    packings = packings_of(model)
    torch.manual_seed(0)
    batches = [
        {name: batch[name] for name in batch if name not in ("labels", "idx")} for batch in data.train_dataloader()
    ]
    rate: list[float] = []
    seconds: dict[str, list[float]] = {form: [] for form in FORMS}
    for _ in range(options.repeats):
        rate.append(products_per_second())
        for form in FORMS:
            seconds[form].append(processor_seconds(partial(run_all, model, batches, form, packings)) / len(batches))
    tokens = sum(int(batch["attention_mask"].sum()) for batch in batches) / len(batches)
    places = sum(batch["attention_mask"].numel() for batch in batches) / len(batches)
    limit = 6 * sum(each.numel() for layer in layers for each in layer.parameters()) * tokens / statistics.median(rate)
    print(f"{task}: {tokens:.0f} tokens in {places:.0f} places; products at {statistics.median(rate):.3g} per second")
    for form in FORMS:
        median = statistics.median(seconds[form])
        spread = f"{min(seconds[form]):.3f} to {max(seconds[form]):.3f}"
        print(f"  {form:22} {median:.3f} s ({spread}), {median / limit:.2f} x the products' {limit:.3f} s")


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
    """Print microseconds per layer beyond those of the padded batch, and what the padding would have taken."""
    for size, depth in ((32, 2), (128, 4), (384, 6)):
        config = BertConfig(
            vocab_size=1000,
            hidden_size=size,
            num_hidden_layers=depth,
            num_attention_heads=max(2, size // 32),
            intermediate_size=4 * size,
        )
        model = BertForSequenceClassification(config)
        packings = packings_of(model)
        for lengths in (1, 4, 16):
            widths = torch.tensor([24 - row % lengths for row in range(32)])
            # One text more, without which a batch of equal lengths has no padding to leave out.
            mask = (torch.arange(25) < torch.cat([widths, torch.tensor([25])])[:, None]).long()
            batch = {"input_ids": torch.randint(5, 1000, mask.shape), "attention_mask": mask}
            found = {
                form: statistics.median(
                    processor_seconds(partial(run_all, model, [batch] * 5, form, packings)) / 5 for _ in range(repeats)
                )
                for form in ("padded", "linear layers packed", "layers packed")
            }
            more = {form: (each - found["padded"]) / depth * 1e6 for form, each in found.items() if form != "padded"}
            layers = [each for layer in layer_modules(model) for each in layer.parameters()]
            saved = 6 * sum(each.numel() for each in layers) * int((mask == 0).sum()) / depth / 1e11 * 1e6
            described = ", ".join(f"{form} {each:+.0f}" for form, each in more.items())
            print(f"width {size}, {lengths + 1} lengths: per layer {described} microseconds; padding {saved:.0f}")


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
