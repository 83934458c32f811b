"""A run that goes on from a checkpoint ends, bit for bit, where one that was not interrupted does."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import pytest
import schedulefree
import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from prodigyopt import Prodigy
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_modules import ClosureModule
from tests.optimizers.all_optimizers import OPTIMIZERS
from tests.tiny_models import TinyLogger

EXAMPLES, BATCH = 22, 4  # six batches, the last one of two examples
OTHERS: dict[str, Callable[..., Any]] = {
    "adamw": partial(torch.optim.AdamW, lr=1e-2),
    "sgd, momentum": partial(torch.optim.SGD, lr=1e-2, momentum=0.9),
    "schedule-free adamw": partial(schedulefree.AdamWScheduleFree, lr=1e-2, warmup_steps=3),
    "prodigy": partial(Prodigy, lr=1.0),
}
ALL = OPTIMIZERS | OTHERS


class Net(ClosureModule):
    """Two layers with dropout between them."""

    def __init__(self, **training: Any) -> None:
        super().__init__(**training)
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Dropout(0.3), nn.Linear(8, 2))

    def compute_loss(self, batch: Any) -> Tensor:
        return nn.functional.cross_entropy(self.layers(batch[0]), batch[1])


def tensors() -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(EXAMPLES, 4, generator=generator)
    return inputs, (inputs[:, 0] + 0.5 * inputs[:, 1] > 0).long(), torch.arange(EXAMPLES)


def loader(shuffle: bool = True, **options: Any) -> DataLoader:
    return DataLoader(TensorDataset(*tensors()), batch_size=BATCH, shuffle=shuffle, **options)


class Journal(TinyLogger):
    """Keeps what is logged, but for what depends on the clock, and for what a batch without a step logs once more."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[tuple[int | None, dict[str, float]]] = []

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        kept = {name: value for name, value in metrics.items() if "time" not in name and "second" not in name}
        if not self.lines or self.lines[-1][1] != kept:
            self.lines.append((step, kept))


class Course(Callback):
    """Keeps which examples each batch has; saves a checkpoint at the end of each of the named batches."""

    def __init__(self, folder: Path | None = None, save_after: tuple[int, ...] = ()) -> None:
        self.folder, self.save_after = folder, save_after
        self.batches: list[tuple[int, int, list[int]]] = []
        self.counts: dict[str, tuple[int, int]] = {}
        self.epoch_ends: list[int] = []

    def on_train_batch_end(self, trainer: Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.batches.append((trainer.current_epoch, batch_idx, batch[2].tolist()))
        if len(self.batches) in self.save_after:
            self.save(trainer, f"batch{len(self.batches)}")

    def on_train_epoch_end(self, trainer: Trainer, module: Any) -> None:
        self.epoch_ends.append(trainer.current_epoch)
        self.save(trainer, f"epoch{trainer.current_epoch}")

    def on_validation_end(self, trainer: Trainer, module: Any) -> None:
        self.save(trainer, f"validation{len(self.batches)}")

    def save(self, trainer: Trainer, name: str) -> None:
        if self.folder is not None and not trainer.sanity_checking:
            self.counts[name] = len(self.batches), len(trainer.logger.lines)
            trainer.save_checkpoint(self.folder / f"{name}.ckpt")


def run(
    optimizer: Callable[..., Any],
    *,
    seed: int = 1,
    checkpoint: Path | None = None,
    course: Course | None = None,
    make_loader: Callable[[], Any] = loader,
    module: Callable[..., ClosureModule] = Net,
    training: dict[str, Any] | None = None,
    **options: Any,
) -> tuple[Trainer, Course]:
    """Train with everything made anew, from a seed; go on from a checkpoint if there is one."""
    seed_everything(seed, verbose=False)
    course = course or Course()
    settings: dict[str, Any] = {"max_epochs": 3, "log_every_n_steps": 1} | options
    trainer = Trainer(
        accelerator="cpu",
        logger=Journal(),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[course, *settings.pop("callbacks", [])],
        **settings,
    )
    torch.randn(seed)  # weights and order differ from seed to seed anyway; so does where the stream stands
    trainer.fit(module(optimizer=optimizer, **(training or {})), make_loader(), loader(False), ckpt_path=checkpoint)
    return trainer, course


def final_state(trainer: Trainer) -> dict[str, Any]:
    optimizer = trainer.optimizers[0].state_dict()
    for group in optimizer["param_groups"]:
        group.pop("differentiable", None)  # torch 2.13 adds it to groups when it loads them
    return {
        "weights": trainer.lightning_module.state_dict(),
        "optimizer": optimizer,
        "schedules": [config.scheduler.state_dict() for config in trainer.lr_scheduler_configs],
        "generators": (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()),
        "steps": trainer.global_step,
        "epoch": trainer.current_epoch,
    }


def assert_same(one: Any, other: Any, where: str = "") -> None:
    assert type(one) is type(other), where
    if isinstance(one, Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_same(one[key], other[key], f"{where}/{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for number, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_same(a, b, f"{where}/{number}")
    else:
        assert one == other, where


MOMENTS = {"epoch's end": "epoch0", "mid-epoch": "batch8", "mid-accumulation": "batch9"}


@lru_cache(maxsize=2)
def whole_run(name: str) -> tuple[dict[str, Any], Course, list[Any]]:
    course = Course(Path(mkdtemp()), save_after=(8, 9))
    trainer, course = run(ALL[name], course=course, training={"accumulate_grad_batches": 2})
    return final_state(trainer), course, trainer.logger.lines


def assert_resumes(
    name: str, whole: tuple[dict[str, Any], Course, list[Any]], optimizer: Callable[..., Any], **options: Any
) -> None:
    state, course, lines = whole
    batches, logged = course.counts[name]
    assert course.folder is not None
    trainer, resumed = run(optimizer, seed=7, checkpoint=course.folder / f"{name}.ckpt", **options)
    assert resumed.batches == course.batches[batches:]
    assert_same(final_state(trainer), state)
    # What a batch logs comes after its end.
    missing = lines[logged : len(lines) - len(trainer.logger.lines)]
    assert len(missing) <= name.startswith("batch")
    assert_same(trainer.logger.lines, lines[logged + len(missing) :])


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("name", ALL)
def test_a_resumed_run_is_the_run_that_was_not_interrupted(name: str, moment: str) -> None:
    assert_resumes(MOMENTS[moment], whole_run(name), ALL[name], training={"accumulate_grad_batches": 2})
