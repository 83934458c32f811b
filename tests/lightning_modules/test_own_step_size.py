"""Callbacks that write learning rates: refused where the optimizer finds its own, and in time for the others."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import BackboneFinetuning, LearningRateFinder, StochasticWeightAveraging
from torch import nn
from torch.optim.lr_scheduler import StepLR

from lightning_modules import LinearWithWarmup, ModelError, Schedule, SequenceClassifier
from optimizers import SGDSLS, LineSearchMeZO, ParabolicAdam, SaLSA
from tests.quiet_trainer import quiet_trainer
from tests.tiny_models import TinyData


def fit(module: SequenceClassifier, folder: Path, *callbacks: Callback, max_epochs: int = 2) -> Trainer:
    settings = {"max_epochs": max_epochs, "limit_val_batches": 0}
    trainer = quiet_trainer(default_root_dir=folder, callbacks=list(callbacks), **settings)
    trainer.fit(module, TinyData(16, 8))
    return trainer


@pytest.mark.parametrize("optimizer", [SaLSA, ParabolicAdam, LineSearchMeZO])
@pytest.mark.parametrize(
    "callback", [partial(StochasticWeightAveraging, 0.1, swa_epoch_start=1), LearningRateFinder, BackboneFinetuning]
)
def test_callbacks_that_write_learning_rates_are_refused(
    optimizer: Any, callback: Any, tiny: str, tmp_path: Path
) -> None:
    made, module = callback(), SequenceClassifier(tiny, optimizer=optimizer)
    module.backbone = module.model.bert  # what BackboneFinetuning looks for
    name = optimizer.__name__
    with pytest.raises(ModelError, match=f"{type(made).__name__} sets the learning rate, and {name} finds"):
        fit(module, tmp_path, made)


class Overwriting(Callback):
    def on_train_batch_start(self, trainer: Trainer, module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == 2:
            trainer.optimizers[0].param_groups[0]["lr"] = 123.0


class Scheduling(Callback):
    def on_train_epoch_start(self, trainer: Trainer, module: Any) -> None:
        from lightning.pytorch.utilities.types import LRSchedulerConfig

        trainer.lr_scheduler_configs.append(LRSchedulerConfig(StepLR(trainer.optimizers[0], 1)))


def test_anybody_elses_are_noticed_in_the_next_step(tiny: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"something has set lr from .* to 123 between two steps of SaLSA"):
        fit(SequenceClassifier(tiny, optimizer=SaLSA), tmp_path, Overwriting())
    with pytest.raises(ModelError, match="something has installed StepLR, and SaLSA finds its own step size"):
        fit(SequenceClassifier(tiny, optimizer=SaLSA), tmp_path, Scheduling())
    fit(SequenceClassifier(tiny, optimizer=torch.optim.AdamW), tmp_path, Overwriting())


@pytest.mark.parametrize("schedule", [None, Schedule(LinearWithWarmup)])
def test_weight_averaging_anneals_over_epochs(schedule: Schedule | None, tiny: str, tmp_path: Path) -> None:
    """Three annealing epochs take the rate to the averaging's in three epochs, not in three steps."""
    rates = []

    class Watch(Callback):
        def on_train_epoch_end(self, trainer: Trainer, module: Any) -> None:
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    averaging = StochasticWeightAveraging(0.5, swa_epoch_start=1, annealing_epochs=3, annealing_strategy="linear")
    module = SequenceClassifier(tiny, optimizer=partial(torch.optim.SGD, lr=0.01), lr_scheduler=schedule)
    fit(module, tmp_path, averaging, Watch(), max_epochs=5)
    assert rates[-1] == pytest.approx(0.5)
    assert rates[0] < 0.05
    assert rates[1] - rates[0] > 0.1
    assert rates[2] - rates[1] > 0.1


def test_weight_averaging_with_batch_normalisation_is_refused(tiny: str, tmp_path: Path) -> None:
    module = SequenceClassifier(tiny, optimizer=partial(torch.optim.SGD, lr=0.01))
    module.model.extra = nn.BatchNorm1d(3)
    with pytest.raises(ModelError, match="statistics of batch normalisation under manual optimization"):
        fit(module, tmp_path, StochasticWeightAveraging(0.1))


class OtherOptimizer(Callback):
    """Puts a line search in the place of the run's optimizer, at the start of the second epoch."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        if trainer.current_epoch == 1:
            groups = [{"params": group["params"]} for group in trainer.optimizers[0].param_groups]
            trainer.strategy.optimizers = [SGDSLS(groups)]


@pytest.mark.parametrize("first", [partial(torch.optim.AdamW, lr=1e-3), SaLSA])
def test_a_line_search_may_take_over_from_another_optimizer(first: Any, tiny: str, tmp_path: Path) -> None:
    trainer = fit(SequenceClassifier(tiny, optimizer=first), tmp_path, OtherOptimizer())
    assert type(trainer.optimizers[0]) is SGDSLS
    assert trainer.optimizers[0].last_step is not None
    assert trainer.global_step == 4
