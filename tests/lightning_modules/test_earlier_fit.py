"""A fit with a Trainer or callbacks that an earlier fit has used."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EarlyStopping, EMAWeightAveraging, ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader

from callbacks import MainMetricStopping
from lightning_modules import ClosureModule, LinearWithWarmup, ModelError, Schedule
from lightning_modules.trainer import earlier_fit as tested
from tests.quiet_trainer import quiet_trainer


class Small(ClosureModule):
    """A linear regression."""

    def __init__(self) -> None:
        super().__init__(optimizer=partial(torch.optim.SGD, lr=0.01))
        self.layer = nn.Linear(4, 1)

    def compute_loss(self, batch: Tensor) -> Tensor:
        return (self.layer(batch) - batch.sum(1, keepdim=True)).square().mean()


def rows() -> DataLoader:
    return DataLoader(torch.randn(16, 4, generator=torch.Generator().manual_seed(1)), batch_size=8)


def trainer(folder: Path, *callbacks: Callback, epochs: int = 1) -> Trainer:
    return quiet_trainer(
        max_epochs=epochs,
        callbacks=list(callbacks),
        default_root_dir=folder,
        enable_checkpointing=any(isinstance(each, ModelCheckpoint) for each in callbacks),
    )


@pytest.mark.parametrize(
    ("make", "left"),
    [
        (partial(EarlyStopping, "val/loss"), "EarlyStopping still has the best score"),
        (MainMetricStopping, "MainMetricStopping still has the best score"),
        (partial(ModelCheckpoint, monitor="val/loss"), "ModelCheckpoint still has the checkpoints"),
        (EMAWeightAveraging, "EMAWeightAveraging still has the number of steps"),
    ],
)
def test_callbacks_of_an_earlier_fit_are_refused_unless_it_goes_on(
    make: Callable[[], Callback], left: str, tmp_path: Path
) -> None:
    callback = make()
    first = trainer(tmp_path, callback)
    first.fit(Small(), rows(), rows())
    first.save_checkpoint(tmp_path / "first.ckpt")
    with pytest.raises(ModelError, match=f"^trainer.callbacks: {left} of an earlier fit; make new callbacks"):
        trainer(tmp_path, callback).fit(Small(), rows(), rows())
    goes_on = trainer(tmp_path, callback, epochs=2)
    goes_on.fit(Small(), rows(), rows(), ckpt_path=tmp_path / "first.ckpt")
    assert goes_on.global_step == 4
    trainer(tmp_path, make()).fit(Small(), rows(), rows())


def test_a_trainer_that_would_train_nothing_is_refused(tmp_path: Path) -> None:
    both = trainer(tmp_path)
    first = Small()
    both.fit(first, rows(), rows())
    with pytest.raises(
        ModelError, match=r"^trainer: an earlier fit has ended at step 2, .*; make a new Trainer for each"
    ):
        both.fit(Small(), rows(), rows())
    both.fit_loop.max_epochs = 2
    both.fit(first, rows(), rows())
    assert both.global_step == 4


class Scheduled(Small):
    """Its learning rate falls from step to step."""

    def __init__(self) -> None:
        super().__init__()
        self.lr_scheduler = Schedule(partial(LinearWithWarmup, warmup_ratio=0.0))
        self.rates: list[float] = []

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        super().on_before_optimizer_step(optimizer)
        self.rates.append(optimizer.param_groups[0]["lr"])


@pytest.mark.parametrize("by_steps", [True, False])
def test_a_schedule_is_laid_over_the_steps_that_are_left_for_its_fit(by_steps: bool, tmp_path: Path) -> None:
    def limit(each: Trainer, epochs: int) -> None:
        each.fit_loop.max_epochs = -1 if by_steps else epochs
        each.fit_loop.epoch_loop.max_steps = 2 * epochs if by_steps else -1

    whole = [0.01, 0.0075, 0.005, 0.0025]
    module, both = Scheduled(), trainer(tmp_path)
    for epochs in (2, 4):
        limit(both, epochs)
        both.fit(module, rows())
    assert module.rates == pytest.approx(whole * 2)
    third, within = Scheduled(), trainer(tmp_path)
    limit(within, 2)
    within.fit(third, rows())
    limit(within, 4)
    saver = ModelCheckpoint(tmp_path / "ck", filename="{step}", save_top_k=-1)
    within.callbacks.append(saver)  # type: ignore[attr-defined]
    within.fit(third, rows())
    resumed, goes_on = Scheduled(), trainer(tmp_path)
    limit(goes_on, 4)
    goes_on.fit(resumed, rows(), ckpt_path=tmp_path / "ck" / "step=6.ckpt")
    assert resumed.rates == pytest.approx(whole[2:])


def test_an_average_without_its_number_of_steps_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tested, "_NOT_PUBLIC", "_no_such_name")
    with pytest.raises(RuntimeError, match="WeightAveraging has no _no_such_name"):
        trainer(tmp_path, EMAWeightAveraging()).fit(Small(), rows(), rows())
