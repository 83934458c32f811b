"""Peak memory of a training step per parameter of the model, beside that of an evaluation.

    python -m benchmarks.memory --size 100m
    python -m benchmarks.memory --size 1b --device cuda --output benchmarks/results/memory

Every method takes a few steps on a Llama of random weights, in a process of its own. On the CPU the peak is the growth
of the process's resident set since before the model was made, on a GPU what torch has allocated at most; both hold the
weights. docs/big_models.md says what each method should take, and why.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from transformers import LlamaConfig, LlamaForSequenceClassification

from benchmarks import markdown
from benchmarks.own_process import measured_in_new_process
from benchmarks.study.machine import describe_machine
from callbacks.reports.peak_memory_monitor import resident_bytes, restart_peak
from lightning_modules.closures import StepClosures
from lightning_modules.steps.optimizer_calls import step_keywords
from optimizers import GLD, LineSearchMeZO, MeZO, ParabolicAdam, SaLSA

STEPS = 3
MIB = 2**20
# Sizes by name: width, width of the feed-forward part, layers, heads, heads of keys and values, words.
SIZES = {
    "25m": (512, 1408, 6, 8, 4, 8_000),
    "100m": (768, 2048, 14, 12, 4, 8_000),
    "400m": (1536, 4096, 15, 12, 4, 8_000),
    "1b": (2048, 5632, 22, 32, 4, 32_000),
    "7b": (4096, 11008, 32, 32, 32, 32_000),
}


@dataclass(frozen=True)
class Method:
    """A method to measure.

    Args:
        optimizer: Makes the optimizer of parameters; None evaluates alone.
        copies: What it keeps at most beside the weights, in copies of the trainable parameters, gradients included.
        more_in_half: How many more where the weights are in half precision, in which MeZO moves them back from a copy.
        lora: Whether it trains an adapter and the head in place of the whole model.
    """

    optimizer: Callable[[Any], Optimizer] | None
    copies: float
    more_in_half: float = 0
    lora: bool = False


METHODS = {
    "evaluation": Method(None, 0),
    # Two tensors per step and two radii: what GLD holds is about one tensor, however many move in a step.
    "GLD": Method(partial(GLD, num_radii=2, units_per_round=2), 0),
    "MeZO": Method(MeZO, 0, more_in_half=1),
    "LineSearchMeZO": Method(LineSearchMeZO, 0, more_in_half=1),
    "LoRA + ParabolicAdam": Method(partial(ParabolicAdam, total_steps=100), 3, lora=True),
    "AdamW": Method(partial(AdamW, lr=1e-5), 3),
    "ParabolicAdam": Method(partial(ParabolicAdam, total_steps=100), 3),
    "SaLSA": Method(SaLSA, 4),
}


def build_model(size: str, dtype: torch.dtype, device: str, lora: bool) -> nn.Module:
    """Return a classifier with random weights.

    Args:
        size: A key of `SIZES`.
        dtype: Type of the weights.
        device: Where they are made.
        lora: Whether to add an adapter to queries and values, and freeze the rest but the head.
    """
    hidden, intermediate, layers, heads, kv_heads, words = SIZES[size]
    config = LlamaConfig(
        vocab_size=words,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        pad_token_id=0,
    )
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model: nn.Module = LlamaForSequenceClassification(config).train()
            if lora:
                from peft import LoraConfig, TaskType, get_peft_model

                adapter = LoraConfig(TaskType.SEQ_CLS, r=8, target_modules=["q_proj", "v_proj"])
                model = get_peft_model(model, adapter)
    finally:
        torch.set_default_dtype(before)
    return model


def measure(name: str, options: argparse.Namespace) -> dict[str, int]:
    """Take a few steps in this process; return the numbers of parameters and the peak of memory in bytes."""
    method = METHODS[name]
    torch.set_num_threads(options.threads)
    before = resident_bytes("VmRSS")
    model = build_model(options.size, getattr(torch, options.dtype), options.device, method.lora)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    on_gpu = options.device == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    else:
        restart_peak()
    optimizer = None if method.optimizer is None else method.optimizer(trained)
    if isinstance(optimizer, ParabolicAdam):
        optimizer.keeps_gradients = False  # as in a fit
    for batch in batches(options):
        step = closures_of(model, batch, optimizer, options.device)
        if optimizer is None:
            step.evaluate()
        else:
            optimizer.step(step.closure, **step_keywords(optimizer, step, has_scaler=False))  # type: ignore[arg-type]
    peak = torch.cuda.max_memory_allocated() if on_gpu else resident_bytes("VmHWM") - before
    count = sum(parameter.numel() for parameter in model.parameters())
    weights = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    trainable = sum(parameter.numel() * parameter.element_size() for parameter in trained)
    return {"parameters": count, "weights": weights, "trainable": trainable, "peak": peak}


def batches(options: argparse.Namespace) -> Iterator[dict[str, Tensor]]:
    """Yield the batches of the steps: random words, none of them padding."""
    generator = torch.Generator().manual_seed(0)
    words = SIZES[options.size][-1]
    for _ in range(STEPS):
        tokens = torch.randint(1, words, (options.batch_size, options.length), generator=generator)
        labels = torch.randint(2, (options.batch_size,), generator=generator)
        yield {"input_ids": tokens.to(options.device), "labels": labels.to(options.device)}


def closures_of(model: nn.Module, batch: dict[str, Tensor], optimizer: Optimizer | None, device: str) -> StepClosures:
    """Return the closures of a step on a batch."""
    return StepClosures(
        lambda batch: model(**batch).loss.float(),
        [batch],
        zero_grad=model.zero_grad if optimizer is None else optimizer.zero_grad,
        backward=Tensor.backward,
        device=device,
    )


def table(found: dict[str, dict[str, int]], in_half: bool) -> str:
    """Return the measurements as a Markdown table, one line per method.

    Args:
        found: What :func:`measure` has returned, by the method's name.
        in_half: Whether the weights are in half precision.
    """
    whole = next(iter(found.values()))
    evaluation = found.get("evaluation", {}).get("peak")
    columns = ["method", "peak, MiB", "bytes per parameter", "of evaluation", "beside the weights, MiB"]
    rows = []
    for name, each in found.items():
        ratio = "—" if evaluation is None else f"{each['peak'] / evaluation:.3f}"
        cells = [f"{each['peak'] / MIB:.0f}", f"{each['peak'] / whole['parameters']:.2f}", ratio]
        cells += [f"{(each['peak'] - each['weights']) / MIB:.0f}"]
        copies = METHODS[name].copies + in_half * METHODS[name].more_in_half
        cells += [f"{copies * each['trainable'] / MIB:.0f}"]
        rows.append([name, *cells])
    return markdown.table([*columns, "copies at most, MiB"], rows, numbers=True)


def main() -> None:
    """Measure all methods, or, asked by itself, one of them in this process."""
    options = parser().parse_args()
    options.device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if options.only:
        print(json.dumps(measure(options.only, options)))
        return
    found: dict[str, dict[str, int]] = {}
    commit = describe_machine()["commit"]
    for name in options.methods:
        try:
            found[name] = measured_in_new_process("memory", ["--only", name])
            print(f"{name}: {found[name]['peak'] / MIB:.0f} MiB", file=sys.stderr)
        except RuntimeError as error:
            print(f"not measured: {error}", file=sys.stderr)
    if not found:
        sys.exit(1)
    where = torch.cuda.get_device_name() if options.device == "cuda" else f"CPU, {options.threads} thread(s)"
    count = next(iter(found.values()))["parameters"] / 1e6
    batch = f"{options.batch_size} texts of {options.length} words"
    title = f"Llama of {count:.0f} M parameters, {options.dtype}; {batch}"
    lines = [
        f"# {title}",
        f"- command: `python -m benchmarks.memory {shlex.join(sys.argv[1:])}`\n"
        f"- code: all tables at commit {commit}, one version of the code\n"
        f"- {where}; torch {torch.__version__}",
        table(found, options.dtype == "bfloat16"),
    ]
    report = "\n\n".join(lines) + "\n"
    print(report)
    if options.output is not None:
        options.output.mkdir(parents=True, exist_ok=True)
        (options.output / f"memory_{options.size}_{options.device}.md").write_text(report, encoding="utf-8")


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    arguments = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__.split("\n\n")[0])
    arguments.add_argument("--size", choices=SIZES, default="100m", help="about how many parameters (default: 100m)")
    arguments.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), metavar="NAME")
    arguments.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="type of the weights")
    arguments.add_argument("--batch-size", type=int, default=4, help="texts per step (default: 4)")
    arguments.add_argument("--length", type=int, default=64, help="words per text (default: 64)")
    arguments.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where there is one")
    arguments.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    arguments.add_argument("--output", type=Path, help="folder to write the report into")
    arguments.add_argument("--only", help=argparse.SUPPRESS)
    return arguments


if __name__ == "__main__":
    main()
