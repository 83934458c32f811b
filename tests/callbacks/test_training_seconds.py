"""Seconds of training, on a clock that the test turns by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Trainer
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from callbacks import TrainingSeconds
from tests.quiet_trainer import quiet_trainer

TRAINING_STEP, VALIDATION_STEP = 2.0, 100.0


class TimedModel(BoringModel):
    """Every training step takes 2 seconds, every validation step 100."""

    def __init__(self, clock: list[float]) -> None:
        super().__init__()
        self.clock = clock
        self.validations = 0

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.clock[0] += TRAINING_STEP
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        self.clock[0] += VALIDATION_STEP
        return super().validation_step(batch, batch_idx)

    def on_validation_end(self) -> None:
        self.validations += 1


def trainer(folder: Path, callback: TrainingSeconds, **options: Any) -> Trainer:
    settings = {"enable_checkpointing": True, "limit_val_batches": 3} | options
    return quiet_trainer(default_root_dir=folder, callbacks=[callback], **settings)


def test_validation_does_not_count(tmp_path: Path, clock: list[float]) -> None:
    seconds = TrainingSeconds()
    run = trainer(tmp_path, seconds, max_epochs=2, limit_train_batches=5, enable_checkpointing=False)
    model = TimedModel(clock)
    run.fit(model)
    assert model.validations == 3  # with Lightning's sanity check
    assert seconds.seconds == 10 * TRAINING_STEP
    assert float(run.callback_metrics["train/seconds"]) == 10 * TRAINING_STEP


def test_the_budget_stops_the_run_after_the_step_that_uses_it_up(tmp_path: Path, clock: list[float]) -> None:
    seconds = TrainingSeconds(max_seconds=7.0)
    run = trainer(tmp_path, seconds, max_epochs=-1, num_sanity_val_steps=0, enable_checkpointing=False)
    model = TimedModel(clock)
    run.fit(model)
    assert run.global_step == 4
    assert seconds.seconds == 4 * TRAINING_STEP
    assert seconds.progress == 1.0
    assert model.validations == 1  # the last state is scored


def test_a_resumed_run_has_only_the_rest_of_the_budget(tmp_path: Path, clock: list[float]) -> None:
    first = trainer(tmp_path, TrainingSeconds(max_seconds=20.0), max_epochs=1, limit_train_batches=6)
    first.fit(TimedModel(clock))
    first.save_checkpoint(tmp_path / "half.ckpt")
    seconds = TrainingSeconds(max_seconds=20.0)
    second = trainer(tmp_path, seconds, max_epochs=-1, limit_train_batches=6)
    second.fit(TimedModel(clock), ckpt_path=tmp_path / "half.ckpt", weights_only=False)
    assert second.global_step == 10
    assert seconds.seconds == 20.0


def test_a_run_without_any_budget_left_trains_no_further(tmp_path: Path, clock: list[float]) -> None:
    first = trainer(tmp_path, TrainingSeconds(max_seconds=7.0), max_epochs=-1)
    first.fit(TimedModel(clock))
    first.save_checkpoint(tmp_path / "whole.ckpt")
    second = trainer(tmp_path, TrainingSeconds(max_seconds=7.0), max_epochs=-1)
    second.fit(TimedModel(clock), ckpt_path=tmp_path / "whole.ckpt", weights_only=False)
    assert second.global_step == first.global_step == 4
    more = trainer(tmp_path, TrainingSeconds(max_seconds=9.0), max_epochs=-1)
    more.fit(TimedModel(clock), ckpt_path=tmp_path / "whole.ckpt", weights_only=False)
    assert more.global_step == 5


def test_the_next_fit_has_the_whole_budget_again(tmp_path: Path, clock: list[float]) -> None:
    seconds = TrainingSeconds(max_seconds=7.0)
    for _ in range(2):
        run = trainer(tmp_path, seconds, max_epochs=-1, limit_val_batches=0, enable_checkpointing=False)
        run.fit(TimedModel(clock))
        assert run.global_step == 4
        run.validate(TimedModel(clock), verbose=False)
        assert seconds.seconds == 4 * TRAINING_STEP  # stays to be read


def test_progress_is_a_share_of_the_budget(clock: list[float]) -> None:
    seconds = TrainingSeconds(max_seconds=8.0)
    seconds.seconds = 2.0
    assert seconds.progress == 0.25
    assert TrainingSeconds().progress == 0.0


@pytest.mark.parametrize("budget", [0.0, -1.0, float("nan")])
def test_a_budget_of_nothing_is_refused(budget: float) -> None:
    with pytest.raises(MisconfigurationException, match=r"max_seconds: .* is not allowed"):
        TrainingSeconds(max_seconds=budget)
