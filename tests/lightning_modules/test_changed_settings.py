"""A run that resumes with other settings than those that its checkpoint was made with: told, or refused."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, StepLR
from torch.utils.data import DataLoader

from lightning_modules import ClosureModule, CosineWithWarmup, LinearWithWarmup, ModelError, Schedule
from optimizers import SaLSA
from tests.quiet_trainer import quiet_trainer

AdamW = partial(torch.optim.AdamW, lr=1e-2, weight_decay=0.1)
LINEAR = Schedule(partial(LinearWithWarmup, warmup_ratio=0.5))
STEPS = Schedule(partial(StepLR, step_size=1))


class Line(ClosureModule):
    def __init__(self, **training: Any) -> None:
        super().__init__(**training)
        self.layer = nn.Linear(2, 1)

    def compute_loss(self, batch: Tensor) -> Tensor:
        return (self.layer(batch)[:, 0] - batch.sum(1)).square().mean()


def fit(folder: Path, name: str, checkpoint: str | None = None, epochs: int = 2, **training: Any) -> Trainer:
    """Train to half of the run, or on to its end, and save a checkpoint."""
    stop = {"max_steps": 2} if checkpoint is None else {}
    trainer = quiet_trainer(max_epochs=epochs, default_root_dir=folder, **stop)
    rows = DataLoader(torch.randn(8, 2, generator=torch.Generator().manual_seed(1)), batch_size=4)
    trainer.fit(Line(**training), rows, ckpt_path=folder / checkpoint if checkpoint else None)
    trainer.save_checkpoint(folder / name)
    return trainer


def warnings_about_checkpoints(make: Callable[[], Any]) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        make()
    return [str(each.message) for each in caught if "ckpt_path" in str(each.message)]


@pytest.mark.parametrize("optimizer", [AdamW, SaLSA, partial(torch.optim.Adam, lr=torch.tensor(1e-2))])
def test_a_run_with_the_same_options_is_told_nothing(optimizer: Callable[..., Any], tmp_path: Path) -> None:
    fit(tmp_path, "one.ckpt", optimizer=optimizer)
    assert warnings_about_checkpoints(lambda: fit(tmp_path, "two.ckpt", "one.ckpt", optimizer=optimizer)) == []


def test_options_that_stay_those_of_the_checkpoint_are_told_each_time(tmp_path: Path) -> None:
    other = partial(torch.optim.AdamW, lr=np.float64(1e-3), weight_decay=0.1, betas=(0.8, 0.999))
    fit(tmp_path, "one.ckpt", optimizer=AdamW)
    for epochs, saved, next_one in ((2, "one.ckpt", "two.ckpt"), (3, "two.ckpt", "three.ckpt")):
        trainers: list[Trainer] = []
        (told,) = warnings_about_checkpoints(
            lambda: trainers.append(fit(tmp_path, next_one, saved, epochs, optimizer=other))  # noqa: B023
        )
        assert "lr 0.01 in place of 0.001, betas [0.9, 0.999] in place of [0.8, 0.999];" in told
        assert {group["lr"] for group in trainers[0].optimizers[0].param_groups} == {0.01}


def test_a_schedule_over_another_length_has_the_rates_that_are_given(tmp_path: Path) -> None:
    fit(tmp_path, "one.ckpt", optimizer=AdamW, lr_scheduler=LINEAR)
    other = partial(torch.optim.AdamW, lr=1e-3, weight_decay=0.1)
    trainers: list[Trainer] = []

    def longer() -> None:
        trainers.append(fit(tmp_path, "two.ckpt", "one.ckpt", 4, optimizer=other, lr_scheduler=LINEAR))

    assert warnings_about_checkpoints(longer) == []
    assert trainers[0].optimizers[0].param_groups[0]["initial_lr"] == 1e-3


@pytest.mark.parametrize(
    ("saved", "resumed", "expected"),
    [
        (LINEAR, None, "the checkpoint's run has a learning-rate schedule and this one has none"),
        (None, LINEAR, "the checkpoint's run has no learning-rate schedule"),
        (STEPS, Schedule(CosineAnnealingLR), "schedule is StepLR, the run's is CosineAnnealingLR"),
        (LINEAR, Schedule(CosineWithWarmup), "schedule is LinearWithWarmup, the run's is CosineWithWarmup"),
    ],
)
def test_another_schedule_is_refused(
    saved: Schedule | None, resumed: Schedule | None, expected: str, tmp_path: Path
) -> None:
    fit(tmp_path, "one.ckpt", optimizer=AdamW, lr_scheduler=saved)
    with pytest.raises(ModelError, match=expected):
        fit(tmp_path, "two.ckpt", "one.ckpt", optimizer=AdamW, lr_scheduler=resumed)


def test_another_schedule_is_refused_by_its_state_where_an_earlier_version_has_saved_no_name(tmp_path: Path) -> None:
    fit(tmp_path, "one.ckpt", optimizer=AdamW, lr_scheduler=STEPS)
    checkpoint = torch.load(tmp_path / "one.ckpt", weights_only=True)
    del checkpoint["schedule_names"]
    torch.save(checkpoint, tmp_path / "earlier.ckpt")
    with pytest.raises(ModelError, match="is no CosineAnnealingLR: it has no T_max"):
        fit(tmp_path, "two.ckpt", "earlier.ckpt", optimizer=AdamW, lr_scheduler=Schedule(CosineAnnealingLR))
    fit(tmp_path, "two.ckpt", "earlier.ckpt", optimizer=AdamW, lr_scheduler=STEPS)
