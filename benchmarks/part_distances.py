"""How far encoder, pooler and new head each are from the minimiser of a batch's loss, along Adam's direction.

    python -m benchmarks.part_distances qnli mnli --steps 10 20 40
    python -m benchmarks.part_distances sst2 stsb --data-dir /path/to/glue --steps 10 20 40

Trains a model without dropout by AdamW, after a warm-up of ten steps. At some steps it measures the loss along the
direction through each part alone. The distance is that of ParabolicAdam, the root of 2 f / a, with the loss f and its
curvature a. Without a folder of GLUE's files the sentences are generated.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.markdown import table
from datamodules import GLUEDataModule
from lightning_modules import SequenceClassifier
from lightning_modules.batches.batch_rows import Batch
from lightning_modules.models.packaged_models import OFFLINE_PREFIX, PACKAGED_MODELS
from optimizers import named_parts
from optimizers.parabola import measure_parabola

WARMUP_STEPS, PEAK = 10, 1e-4
PACKAGED = OFFLINE_PREFIX + next(iter(PACKAGED_MODELS))
# A probe that comes nearer by itself where it is too far.
FIRST_PROBE = 1.0


def parts_of(module: SequenceClassifier) -> dict[str, list[nn.Parameter]]:
    """Return the parameters of each part: the encoder, what is pretrained above it, what is new."""
    parts: dict[str, list[nn.Parameter]] = {"encoder": [], "pooler": [], "new head": []}
    for part in named_parts(module.model, module.module_order):
        for name, parameter in part.parameters:
            is_new = name in module.new_parameter_names
            parts["new head" if is_new else "pooler" if part.kind == "head" else "encoder"].append(parameter)
    return {name: parameters for name, parameters in parts.items() if parameters}


def distance(module: SequenceClassifier, batch: Batch, directions: Mapping[nn.Parameter, Tensor]) -> float:
    """Return the distance to the minimiser of a batch's loss along directions of some parameters; NaN if uphill.

    Args:
        module: The module, with the gradients of this batch.
        batch: The batch.
        directions: What a step of size 1 subtracts from each parameter.
    """
    starts = {parameter: parameter.detach().clone() for parameter in directions}
    slope = sum((parameter.grad * each).sum() for parameter, each in directions.items() if parameter.grad is not None)

    @torch.no_grad()
    def loss_at(step_size: float) -> Tensor:
        for parameter, direction in directions.items():
            parameter.copy_(starts[parameter] - step_size * direction)
        return module.compute_loss(batch)

    found = measure_parabola(loss_at, loss_at(0.0), slope, FIRST_PROBE, max_trials=20)
    loss_at(0.0)
    return math.nan if found.curvature is None else math.sqrt(2 * found.loss / found.curvature)


def distances(
    module: SequenceClassifier, batches: Iterator[Batch], steps: Sequence[int]
) -> dict[str, dict[int, float]]:
    """Train a module, and return the distance of each of its parts at some steps."""
    parts = parts_of(module)
    parameters = [parameter for each in parts.values() for parameter in each]
    optimizer = torch.optim.AdamW(parameters, lr=PEAK, weight_decay=0.0)
    found: dict[str, dict[int, float]] = {name: {} for name in parts}
    for step, batch in enumerate(islice(batches, max(steps)), start=1):
        rate = PEAK * min(1.0, step / WARMUP_STEPS)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        module.compute_loss(batch).backward()
        before = {parameter: parameter.detach().clone() for parameter in parameters}
        optimizer.step()
        if step in steps:
            after = {parameter: parameter.detach().clone() for parameter in parameters}
            with torch.no_grad():
                for parameter, value in before.items():
                    parameter.copy_(value)
            for name, of_part in parts.items():
                moved = {each: (before[each] - after[each]) / rate for each in of_part if each.grad is not None}
                found[name][step] = distance(module, batch, moved)
            with torch.no_grad():
                for parameter, value in after.items():
                    parameter.copy_(value)
    return found


def rows(task: str, found: Mapping[str, Mapping[int, float]]) -> list[list[str]]:
    """Return a row for each part: its distances, and the mean of what they are in distances of the encoder."""
    made = []
    for name, of_part in found.items():
        ratios = [of_part[step] / found["encoder"][step] for step in of_part]
        known = [ratio for ratio in ratios if math.isfinite(ratio)]
        relative = f"{math.exp(sum(map(math.log, known)) / len(known)):.0f}" if known else "—"
        made.append([task, name, *(f"{value:.2g}" for value in of_part.values()), relative])
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="+", help="GLUE tasks")
    parser.add_argument("--data-dir", type=Path, help="folder of GLUE's files; default: sentences are generated")
    parser.add_argument("--steps", type=int, nargs="+", default=[10, 20, 40], help="steps to measure at")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--model", default=PACKAGED, help="name or folder; default: the packaged MiniLM")
    options = parser.parse_args(arguments)
    source: dict[str, Any] = {"data_dir": str(options.data_dir)} if options.data_dir else {"source": "synthetic"}
    found = []
    for task in options.tasks:
        torch.manual_seed(0)
        settings = {"max_train_samples": 500, "train_batch_size": options.batch_size, "tokenizer": options.model}
        data = GLUEDataModule(task, **settings, **source)
        data.prepare_data()
        data.setup("fit")
        module = SequenceClassifier(options.model, num_labels=data.num_labels, metrics=data.metrics, dropout=0.0)
        loader: Any = data.train_dataloader()
        found += rows(task, distances(module, cycle(loader), sorted(options.steps)))
    steps = [f"step {step}" for step in sorted(options.steps)]
    print(table(["task", "part", *steps, "of the encoder's, geometric mean"], found))


if __name__ == "__main__":
    main()
