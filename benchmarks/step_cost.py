"""Time and memory of a step of each line search, beside AdamW and the published packages.

    python -m benchmarks.step_cost --data-dir /path/to/glue

Every method trains its own copy of the same model on the same batches of SST-2, in one process, in turn at every step.
The first table has the median and total time of a step, its forward passes, the time outside forward and backward
passes ("arithmetic") and, with `--memory`, the peak of memory. Where fused AdamW is among the methods, it has the ratio
to that, and what the ratio would be if a method's trials were all that it adds: its floor, the decisions being what
they are. The second compares our methods with those of the published package SaLSa-Optimizer at equal constants and
hence equal numbers of trials. On a CPU with one thread seconds are the processor's, else the clock's.

On a GPU the default model is BERT-base with random weights, otherwise the packaged MiniLM. On a CPU matrices are
multiplied by the library that a run takes there (lightning_modules/models/cpu_products.py).
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

from benchmarks import markdown
from benchmarks.own_process import measured_in_new_process
from benchmarks.step_methods import Method, Step, Stopwatch, methods, now, pairs
from callbacks.reports.peak_memory_monitor import resident_bytes
from datamodules import GLUEDataModule
from lightning_modules.batches.batch_rows import Batch
from lightning_modules.models.cpu_products import products_of_a_run
from lightning_modules.models.pretrained import load_sequence_classifier

PACKAGED = "offline:all-MiniLM-L6-v2"
# First steps, which the medians leave out: first calls allocate, and first searches need many trials.
WARM_UP = 5


@dataclass
class Run:
    """Model and optimizer of one method, and the time of its steps."""

    model: nn.Module
    optimizer: Any
    step: Step
    seconds: list[float] = field(default_factory=list)
    passes: list[float] = field(default_factory=list)  # of these, the seconds in forward and backward passes
    trials: list[float] = field(default_factory=list)  # of these, the seconds in forward passes without gradients
    forwards: list[int] = field(default_factory=list)

    def once(self, batch: Batch, device: torch.device, exact: bool) -> None:
        """Make a step and record its cost."""
        watch = Stopwatch(device, exact)
        watch.wait()
        started = now(device)
        self.step(self.model, self.optimizer, batch, watch)
        watch.wait()
        self.seconds.append(now(device) - started)
        self.passes.append(watch.seconds)
        self.trials.append(watch.trial_seconds)
        self.forwards.append(watch.forwards)


def side_by_side(
    chosen: dict[str, Method],
    build: Callable[[], nn.Module],
    batches: Sequence[Batch],
    device: torch.device,
    exact: bool,
) -> dict[str, Run]:
    """Train every method on every batch, in turn, starting with another method at every step."""
    runs = {}
    original = build()
    for name, method in chosen.items():
        model = copy.deepcopy(original)
        runs[name] = Run(model, method.make(model), method.step)
    names = list(runs)
    for number, batch in enumerate(batches):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            # The same dropout masks for all methods.
            torch.manual_seed(number)
            runs[name].once(batch, device, exact)
        print(f"\rstep {number + 1} of {len(batches)}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return runs


def main() -> None:
    """Measure and print the tables."""
    options = parser().parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    with products_of_a_run() if device.type == "cpu" else nullcontext():
        measure(options, device)


def measure(options: argparse.Namespace, device: torch.device) -> None:
    """Measure on a device, and print the tables."""
    name = options.model or ("bert-base" if device.type == "cuda" else PACKAGED)

    def build(training: bool = True) -> nn.Module:
        torch.manual_seed(0)
        model = model_named(name).to(device).train(training)
        if options.precision == "bf16-mixed":
            model.forward = torch.autocast(device.type, torch.bfloat16)(model.forward)
        return model

    available = methods(options.steps)
    wanted = options.methods or list(available)
    unknown = sorted(set(wanted) - set(available))
    if unknown:
        parser().error(f"--methods: {', '.join(unknown)} unknown; there are {', '.join(available)}")
    of_length = options.group_by_length
    found = batches_of(options.data_dir, options.steps, options.batch_size, device, of_length, options.tokenizer)
    batches = list(found)
    if options.peak_memory:
        print(peak_memory(available[options.peak_memory], build(), batches, device))
        return

    runs = side_by_side({name: available[name] for name in wanted}, build, batches, device, exact=device.type == "cpu")
    exact = runs
    if device.type != "cpu":
        # Waiting for the device around every pass slows the step down, so that passes are timed in a separate run.
        exact = side_by_side({name: available[name] for name in wanted}, build, batches, device, exact=True)
    peaks = (
        {name: measured_in_new_process("step_cost", ["--steps", "4", "--peak-memory", name]) for name in wanted}
        if options.memory
        else {}
    )
    size = sum(p.numel() * p.element_size() for p in build().parameters())
    print(f"\n{describe(device, name, options)}\n")
    print(table(runs, exact, peaks, size))
    for title, pair in ({} if options.no_pairs else pairs()).items():
        both = dict(zip(("ours", "published"), pair, strict=True))
        print(f"\n{title}, both with the published constants and a search in every step\n")
        # Without dropout: the published package seeds its masks from the clock.
        paired = side_by_side(both, partial(build, training=False), batches[: options.pair_steps], device, exact=False)
        print(pair_table(paired))


def table(runs: dict[str, Run], exact: dict[str, Run], peaks: dict[str, int], size: int) -> str:
    """Return the first table as markdown, with ratios to AdamW if it is among the methods."""
    steps = len(next(iter(runs.values())).seconds)
    warm_up = min(WARM_UP, steps - 1)
    base, plain = runs.get("AdamW"), exact.get("AdamW")
    columns = ["method", "ms per step (median)", "ratio to AdamW", f"s for all {steps} steps", "ratio to AdamW"]
    columns += ["forwards per step", "arithmetic, ms (median)", "ratio to AdamW's", "time / time in passes"]
    fused = runs.get("fused AdamW")
    columns += ["total / fused AdamW's", "with nothing but its trials"] if fused else []
    columns += ["peak memory beyond AdamW's"] if peaks else []
    rows = []
    for name, run in runs.items():
        median, total = statistics.median(run.seconds[warm_up:]), sum(run.seconds)
        update = arithmetic(exact[name], warm_up)
        row = [name, f"{median * 1e3:.1f}"]
        row += [f"{median / statistics.median(base.seconds[warm_up:]):.2f}" if base else ""]
        row += [f"{total:.1f}", f"{total / sum(base.seconds):.2f}" if base else ""]
        row += [f"{statistics.mean(run.forwards):.2f}", f"{update * 1e3:.1f}"]
        row += [f"{update / arithmetic(plain, warm_up):.2f}" if plain else ""]
        row += [f"{sum(exact[name].seconds[warm_up:]) / sum(exact[name].passes[warm_up:]):.3f}"]
        if fused:
            floor = 1 + sum(exact[name].trials) / sum(exact["fused AdamW"].seconds)
            row += [f"{total / sum(fused.seconds):.2f}", f"{floor:.2f}"]
        if peaks:
            beyond = peaks[name] - peaks.get("AdamW", 0)
            row.append(f"{beyond / 2**20:.0f} MiB ({beyond / size:.2f} of the parameters)")
        rows.append(row)
    return markdown.table(columns, rows, numbers=True)


def pair_table(runs: dict[str, Run]) -> str:
    """Return the second table as markdown: steps per second at equal numbers of trials."""
    columns = ["", "ms per step (median)", "trials per step", "steps per second", "ratio to published"]
    rows = []
    warm_up = min(WARM_UP, len(runs["ours"].seconds) - 1)
    rates = {name: len(run.seconds[warm_up:]) / sum(run.seconds[warm_up:]) for name, run in runs.items()}
    for name, run in runs.items():
        median = statistics.median(run.seconds[warm_up:])
        trials = statistics.mean(run.forwards[warm_up:]) - 1
        row = [name, f"{median * 1e3:.1f}", f"{trials:.2f}", f"{rates[name]:.3f}"]
        rows.append([*row, f"{rates[name] / rates['published']:.2f}"])
    return markdown.table(columns, rows, numbers=True)


def arithmetic(run: Run, warm_up: int) -> float:
    """Return the median seconds of a step outside forward and backward passes."""
    return statistics.median(s - p for s, p in list(zip(run.seconds, run.passes, strict=True))[warm_up:])


def batches_of(
    data_dir: Path,
    steps: int,
    batch_size: int,
    device: torch.device,
    group_by_length: bool = False,
    tokenizer: str = PACKAGED,
) -> Iterator[Batch]:
    """Yield as many batches as steps, of real SST-2 sentences, padded to the longest in the batch."""
    data = GLUEDataModule(
        "sst2",
        data_dir=str(data_dir),
        tokenizer=tokenizer,
        max_train_samples=min(steps * batch_size, 5_000),
        train_batch_size=batch_size,
        group_by_length=group_by_length,
    )
    data.prepare_data()
    data.setup("fit")
    torch.manual_seed(0)
    loader: Any = data.train_dataloader()
    for batch in islice(cycle(loader), steps):
        yield {name: tensor.to(device) for name, tensor in batch.items() if name != "idx"}


def model_named(name: str) -> nn.Module:
    """Return the packaged model, one of the hub, or `bert-base` with random weights."""
    if name == "bert-base":
        return BertForSequenceClassification(BertConfig())
    return load_sequence_classifier(name, 2).model


def peak_memory(method: Method, model: nn.Module, batches: Sequence[Batch], device: torch.device) -> int:
    """Return the peak of memory in a few steps, in bytes: of the allocator on a GPU, of the process on a CPU."""
    optimizer = method.make(model)
    for number, batch in enumerate(batches[:4]):
        torch.manual_seed(number)
        method.step(model, optimizer, batch, Stopwatch(device, exact=False))
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else resident_bytes("VmHWM")


def describe(device: torch.device, name: str, options: argparse.Namespace) -> str:
    """Return model, data, device and version in one line."""
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {options.threads} thread(s)"
    batches = f"batches of {options.batch_size}" + (" of similar length" if options.group_by_length else "")
    return f"{name}, {options.precision}, SST-2, {batches}, {options.steps} steps; {where}; torch {torch.__version__}"


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    arguments = argparse.ArgumentParser(prog="python -m benchmarks.step_cost", description=__doc__.split("\n\n")[0])
    arguments.add_argument("--data-dir", type=Path, required=True, help="folder with GLUE's official files (SST-2/)")
    arguments.add_argument("--steps", type=int, default=80, help="steps of each method (default: 80)")
    arguments.add_argument(
        "--pair-steps", type=int, default=25, help="steps beside the published package (default: 25)"
    )
    arguments.add_argument("--batch-size", type=int, default=32, help="sentences per step (default: 32)")
    arguments.add_argument(
        "--group-by-length",
        action="store_true",
        help="batches of sentences of similar length, for faster passes",
    )
    arguments.add_argument("--methods", nargs="+", metavar="NAME", help="methods to measure (default: all installed)")
    arguments.add_argument("--model", help=f"a model; default: bert-base on a GPU, else {PACKAGED}")
    arguments.add_argument("--tokenizer", default=PACKAGED, help=f"its tokenizer (default: {PACKAGED})")
    arguments.add_argument("--precision", choices=("32-true", "bf16-mixed"), default="32-true", help="as Lightning's")
    arguments.add_argument("--device", help="cpu or cuda (default: cuda where there is one)")
    arguments.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    arguments.add_argument("--memory", action="store_true", help="also measure peak memory, each in a new process")
    arguments.add_argument(
        "--no-pairs", action="store_true", help="leave out the comparison with the published package"
    )
    arguments.add_argument("--peak-memory", metavar="NAME", help=argparse.SUPPRESS)
    return arguments


if __name__ == "__main__":
    main()
