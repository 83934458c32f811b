"""What the time of a step of a line search is spent on, beside AdamW's: its trials, and the arithmetic around them.

    OMP_NUM_THREADS=1 python -m benchmarks.step_parts --data-dir /path/to/glue --steps 80

Every method trains its own copy of the packaged MiniLM on the same batches of SST-2, of similar length, in turn at
every step, as in benchmarks/step_cost.py. A table has the processor's seconds of each part of all steps on a CPU. With
the same decisions a method cannot take less than its forward and backward passes and its trials.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Sequence
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import nn

from benchmarks import markdown
from benchmarks.run_parts import Parts
from benchmarks.step_cost import PACKAGED, batches_of, model_named
from benchmarks.step_methods import Method, Stopwatch, methods
from lightning_modules.batches.batch_rows import Batch
from lightning_modules.closures import StepClosures
from lightning_modules.models.cpu_products import products_of_a_run
from optimizers import line, parabolic_adam, step_start
from optimizers.group_update import GroupUpdate

METHODS = ("fused AdamW", "SaLSA", "ParabolicAdam")
# The functions that make a part. What is in none of them is the rest.
PARTS: dict[str, Sequence[tuple[Any, str]]] = {
    "forward and backward": [(StepClosures, "closure")],
    "trials": [(StepClosures, "evaluate")],
    "updates without a search": [(import_module("torch.optim.adam"), "adam"), (GroupUpdate, "step_without_search")],
    "check that all is finite": [(step_start, "finite_start")],
    "slopes": [(line, "slope"), (parabolic_adam, "split_slope")],
    "averages for a search": [(GroupUpdate, "compute_direction")],
    "copies for a search": [(GroupUpdate, "save")],
    "moves of a search": [(GroupUpdate, "move_to"), (GroupUpdate, "commit")],
}
REST = "the rest"


def measure(chosen: dict[str, Method], model: nn.Module, batches: Sequence[Batch]) -> dict[str, dict[str, float]]:
    """Train every method on every batch, in turn, and return the seconds of each part by method."""
    models = {name: copy.deepcopy(model) for name in chosen}
    optimizers = {name: method.make(models[name]) for name, method in chosen.items()}
    seconds = {name: dict.fromkeys([*PARTS, REST], 0.0) for name in chosen}
    names = list(chosen)
    for number, batch in enumerate(batches):
        # Starting with another method at every step: the first one finds least in the processor's caches.
        for name in names[number % len(names) :] + names[: number % len(names)]:
            torch.manual_seed(number)
            for part, taken in parts_of_a_step(chosen[name], models[name], optimizers[name], batch).items():
                seconds[name][part] += taken
    return seconds


def parts_of_a_step(method: Method, model: nn.Module, optimizer: Any, batch: Batch) -> dict[str, float]:
    """Make a step, and return the processor's seconds of each of its parts."""
    watch = Stopwatch(torch.device("cpu"), exact=False)
    started = time.process_time()
    parts = Parts(lambda: time.process_time() - started, before=REST)
    with ExitStack() as stack:
        for part, functions in PARTS.items():
            for owner, name in functions:
                stack.enter_context(patch.object(owner, name, parts.counted(part, getattr(owner, name))))
        parts.counted(REST, method.step)(model, optimizer, batch, watch)
    return parts.seconds


def table(seconds: dict[str, dict[str, float]]) -> str:
    """Return the seconds as markdown, a column for each method; the last line has the sums relative to the first's."""
    names = list(seconds)
    sums = {name: sum(seconds[name].values()) for name in names}
    rows = [[part, *(f"{seconds[name][part]:.2f}" for name in names)] for part in [*PARTS, REST]]
    rows += [["sum", *(f"{sums[name]:.2f}" for name in names)]]
    rows += [[f"relative to {names[0]}", *(f"{sums[name] / sums[names[0]]:.2f}" for name in names)]]
    return markdown.table(["part, s", *names], rows, numbers=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step_parts", description=__doc__.split("\n\n")[0])
    parser.add_argument("--data-dir", type=Path, required=True, help="folder with GLUE's official files (SST-2/)")
    parser.add_argument("--steps", type=int, default=80, help="steps of each method (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=32, help="sentences per step (default: %(default)s)")
    parser.add_argument("--methods", nargs="+", default=METHODS, metavar="NAME", help="those of benchmarks.step_cost")
    parser.add_argument("--model", default=PACKAGED, help="a model (default: %(default)s)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    batches = list(batches_of(options.data_dir, options.steps, options.batch_size, torch.device("cpu"), True))
    torch.manual_seed(0)
    model = model_named(options.model).train()
    available = methods(options.steps)
    with products_of_a_run():
        seconds = measure({name: available[name] for name in options.methods}, model, batches)
    print(f"{options.model}, SST-2, batches of {options.batch_size} of similar length, {options.steps} steps\n")
    print(table(seconds))


if __name__ == "__main__":
    main()
