"""What callbacks and schedules watch, in a run that has no validation."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from torch.optim import SGD
from torch.optim.lr_scheduler import ReduceLROnPlateau

from lightning_modules import LinearWithWarmup, ModelError, Schedule, SequenceClassifier
from tests.quiet_trainer import quiet_trainer
from tests.tiny_models import TinyData


def fit(tiny: str, folder: Path, *callbacks: Callback, schedule: Any = None) -> Trainer:
    module = SequenceClassifier(tiny, optimizer=partial(SGD, lr=0.1), lr_scheduler=schedule)
    saves = any(isinstance(each, ModelCheckpoint) for each in callbacks)
    trainer = quiet_trainer(
        callbacks=list(callbacks),
        limit_val_batches=0,
        max_epochs=2,
        default_root_dir=folder,
        enable_checkpointing=saves,
    )
    trainer.fit(module, TinyData(8))
    return trainer


@pytest.mark.parametrize(
    ("callbacks", "schedule", "who"),
    [
        ([EarlyStopping("val/accuracy", mode="max")], None, "trainer.callbacks: EarlyStopping"),
        ([], Schedule(ReduceLROnPlateau), "model.lr_scheduler"),
    ],
    ids=["EarlyStopping", "ReduceLROnPlateau"],
)
def test_what_would_wait_in_vain_is_refused_at_the_start(
    callbacks: list[Any], schedule: Any, who: str, tiny: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=rf"{who}.*monitor: val/\w+ is of a validation, and this run has none"):
        fit(tiny, tmp_path, *callbacks, schedule=schedule)


@pytest.mark.parametrize(
    ("callbacks", "schedule"),
    [
        ([EarlyStopping("val/accuracy", mode="max", strict=False)], None),
        ([EarlyStopping("train/loss")], Schedule(ReduceLROnPlateau, monitor="train/loss")),
        ([], Schedule(LinearWithWarmup)),
    ],
    ids=["not strict", "training", "watches nothing"],
)
def test_what_does_not_wait_for_a_validation_runs(
    callbacks: list[Any], schedule: Any, tiny: str, tmp_path: Path
) -> None:
    saver = ModelCheckpoint(tmp_path, monitor="val/accuracy", mode="max")
    assert fit(tiny, tmp_path, saver, *callbacks, schedule=schedule).global_step == 2
