"""What a run writes down about itself."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.utilities.exceptions import MisconfigurationException

import benchmarks.study.history
from benchmarks.study.definition import Budget
from benchmarks.study.grid import Cell, Run
from benchmarks.study.history import RunHistory
from benchmarks.study.results import FAILED, FINISHED
from benchmarks.study.run_folder import HISTORY_FILE, read_history
from benchmarks.study.summary import summarize_run
from callbacks import PeakMemoryMonitor, PretrainedInterpolation, TrainingSeconds
from lightning_modules import SequenceClassifier
from tests.quiet_trainer import quiet_trainer
from tests.tiny_models import TinyData

RUN = Run("run", Cell({"optimizer": "AdamSLS"}, (), {}, "val/accuracy", Budget(steps=1)), seed=0)


def fit(
    folder: Path,
    module: SequenceClassifier,
    data: TinyData,
    seconds: float | None = None,
    others: tuple[Callback, ...] = (),
    **options: Any,
) -> dict[str, list]:
    recorder = RunHistory(str(folder / HISTORY_FILE), {"optimizer": "AdamSLS"})
    callbacks = [TrainingSeconds(seconds), PeakMemoryMonitor(), recorder, *others]
    quiet_trainer(callbacks=callbacks, default_root_dir=folder, **options).fit(module, data)
    return read_history(folder / HISTORY_FILE)


def test_every_step_and_every_validation_is_written(tiny: str, tmp_path: Path) -> None:
    history = fit(tmp_path, SequenceClassifier(tiny), TinyData(count=24, batch_size=8), max_epochs=2)
    assert [step for step, _, _ in history["train/loss"]] == [1, 2, 3, 4, 5, 6]
    seconds = [second for _, second, _ in history["train/loss"]]
    assert seconds == sorted(seconds)
    assert seconds[0] > 0
    assert [step for step, _, _ in history["val/accuracy"]] == [3, 6]
    assert len(history["train/step_size/model"]) == len(history["train/evaluations"]) == 6
    assert history["val/majority"][-1][2] == 0.5
    assert list(history)[-4:] == ["train/memory_mib", "train/complete", "fit/seconds", "fit/processor_seconds"]


def test_the_whole_fit_is_timed_and_the_last_line_search_kept(tiny: str, tmp_path: Path) -> None:
    others = (PretrainedInterpolation(judge_fraction=0.5),)
    fit(tmp_path, SequenceClassifier(tiny), TinyData(count=24, batch_size=8), max_epochs=2, others=others)
    result = summarize_run(RUN, tmp_path, "", 1.0)
    assert result.status == FINISHED
    assert {"alpha", "loss", "loss_as_trained", "accuracy", "loss_calibrated"} <= set(result.interpolation)
    assert 0 <= result.interpolation["alpha"] <= 1
    assert result.fit_seconds is not None
    assert result.train_seconds is not None
    # Validations and the search take time as well.
    assert result.fit_seconds > result.train_seconds + result.interpolation["seconds"]
    assert result.processor_seconds is not None
    assert result.processor_seconds > 0


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({"max_steps": 4}, 4),
        ({"max_epochs": 2}, 6),
        ({"max_epochs": -1, "seconds": 0.001}, 1),
        ({"max_epochs": 50, "others": (EarlyStopping("val/accuracy", mode="max", stopping_threshold=0.0),)}, 3),
    ],
)
def test_a_run_that_its_budget_ends_is_finished(tiny: str, tmp_path: Path, options: dict[str, Any], steps: int) -> None:
    fit(tmp_path, SequenceClassifier(tiny), TinyData(count=24, batch_size=8), **options)
    result = summarize_run(RUN, tmp_path, "", 1.0)
    assert (result.status, result.reason, result.steps) == (FINISHED, "", steps)


class Interruption(Callback):
    """Sends a signal to its own process after the fourth step, the first of the second epoch."""

    def __init__(self, number: signal.Signals) -> None:
        self.number = number

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == 4:
            os.kill(os.getpid(), self.number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_a_signal_ends_has_failed(tiny: str, tmp_path: Path, number: signal.Signals) -> None:
    with pytest.raises(SystemExit):
        fit(
            tmp_path,
            SequenceClassifier(tiny),
            TinyData(count=24, batch_size=8),
            others=(Interruption(number),),
            max_epochs=2,
        )
    result = summarize_run(RUN, tmp_path, "", 1.0)
    assert (result.status, result.reason) == (FAILED, "interrupted before the end of training")
    assert (result.steps, "val/accuracy" in result.final) == (4, True)


def test_the_memory_is_that_of_the_monitor(tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PeakMemoryMonitor, "measure", lambda self, device: setattr(self, "peak", 3 * 2**20))
    history = fit(tmp_path, SequenceClassifier(tiny), TinyData(count=8, batch_size=8), max_epochs=1)
    assert [value for _, _, value in history["train/memory_mib"]] == [3.0]


def test_an_accumulated_step_is_one_row(tiny: str, tmp_path: Path) -> None:
    module = SequenceClassifier(tiny, accumulate_grad_batches=3)
    history = fit(tmp_path, module, TinyData(count=24, batch_size=4), max_epochs=1)
    assert [step for step, _, _ in history["train/loss"]] == [1, 2]


def test_long_runs_are_written_ever_more_thinly_and_to_their_last_step(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmarks.study.history, "DENSE_STEPS", 4)
    module = SequenceClassifier(tiny, optimizer=torch.optim.SGD)
    history = fit(tmp_path, module, TinyData(count=68, batch_size=4), max_epochs=1, limit_val_batches=0)
    assert [step for step, _, _ in history["train/loss"]] == [1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 15, 16, 17]


@pytest.mark.parametrize(
    ("before", "after", "missing"),
    [
        ([], [], "TrainingSeconds"),
        ([PeakMemoryMonitor()], [TrainingSeconds()], "TrainingSeconds"),
        ([TrainingSeconds()], [PeakMemoryMonitor()], "PeakMemoryMonitor"),
    ],
)
def test_what_it_writes_down_has_to_be_measured_before_it(
    tiny: str, tmp_path: Path, before: list[Callback], after: list[Callback], missing: str
) -> None:
    recorder = RunHistory(str(tmp_path / "h.csv"), {})
    trainer = Trainer(callbacks=[*before, recorder, *after], logger=False, accelerator="cpu")
    with pytest.raises(MisconfigurationException, match=rf"RunHistory needs callbacks\.{missing} before it"):
        trainer.fit(SequenceClassifier(tiny), TinyData())
