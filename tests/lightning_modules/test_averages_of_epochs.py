"""Lightning's StochasticWeightAveraging, whose average is in no checkpoint."""

from __future__ import annotations

import warnings
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging, ModelCheckpoint, StochasticWeightAveraging
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_modules import ClosureModule
from tests.quiet_trainer import quiet_trainer


class Rising(ClosureModule):
    """One weight, which the rate is added to in every step."""

    def __init__(self) -> None:
        super().__init__(optimizer=partial(torch.optim.SGD, lr=1.0))
        self.weight = nn.Parameter(torch.zeros(()))
        self.at_starts: list[float] = []

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        self.at_starts.append(float(self.weight.detach()))

    def compute_loss(self, batch: Any) -> Tensor:
        return -self.weight


def fit(folder: Path, *callbacks: Callback) -> tuple[Rising, float, list[str]]:
    """Return a fitted module, the weight in its last checkpoint, and what was said of averages."""
    module, saver = Rising(), ModelCheckpoint(folder)
    trainer = quiet_trainer(max_epochs=3, callbacks=[saver, *callbacks], enable_checkpointing=True)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.fit(module, DataLoader(torch.ones(2, 1)))
    saved = torch.load(saver.best_model_path, weights_only=True)["state_dict"]["weight"]
    said = [str(each.message) for each in caught if "no checkpoint has its average" in str(each.message)]
    return module, float(saved), said


def test_an_average_that_no_checkpoint_has_is_warned_of(tmp_path: Path) -> None:
    module, saved, said = fit(tmp_path, StochasticWeightAveraging(0.1))
    assert [each.startswith("trainer.callbacks: StochasticWeightAveraging: no checkpoint has") for each in said] == [
        True
    ]
    # What the warning says: where this fails, Lightning has mended it.
    assert float(module.weight.detach()) == pytest.approx(sum(module.at_starts[1:]) / 2)
    assert saved > module.at_starts[-1]


def test_an_average_in_each_checkpoint_is_not(tmp_path: Path) -> None:
    module, saved, said = fit(tmp_path, EMAWeightAveraging(decay=0.5))
    assert not said
    assert saved == pytest.approx(float(module.weight.detach())) != pytest.approx(6.0)
