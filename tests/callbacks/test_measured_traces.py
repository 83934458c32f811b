"""MeasuredLearningRate leaves no trace but its rate, and says it."""

from __future__ import annotations

import csv
import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.optim import SGD, AdamW
from torchmetrics import MeanAbsoluteError, MetricCollection, R2Score

from callbacks import MeasuredLearningRate
from callbacks.trainer.replayed_batches import ReplayedBatches
from tests.callbacks.measured_regression import INPUTS, Rates, Regression, fit, with_rate


class Rough(AdamW):
    """An optimizer that works on the gradients in place, and draws random numbers."""

    def step(self, closure: Any = None) -> Any:
        loss = None if closure is None else closure()
        for p in self.param_groups[0]["params"]:
            p.grad.add_(p.detach(), alpha=0.1).add_(torch.randn_like(p), alpha=1e-3)
        super().step()
        return loss


class Noisy(LightningModule):
    """A module with everything that another forward pass could leave a trace in."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(
            nn.Linear(INPUTS, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 1)
        )
        self.mae = MeanAbsoluteError()
        self.scores = MetricCollection({"r2": R2Score(), "error": MeanAbsoluteError()})
        self.computed: list[float] = []
        self.draws: list[float] = []

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        y = batch.pop().float()  # as transformers' users pop the labels
        x = batch[0].float()
        x = x + 0.1 * torch.from_numpy(np.random.standard_normal(x.shape)).float()
        found = self.layers(x).squeeze(1)
        self.mae(found, y)
        self.scores(found, y)
        self.log("mae", self.mae, on_step=True, on_epoch=True)
        self.log_dict(self.scores, on_step=False, on_epoch=True)
        loss = ((found - y) ** 2).mean()
        self.log("loss", loss, on_step=True, on_epoch=True)
        return {"loss": loss}

    def on_after_backward(self) -> None:
        torch.rand(1)

    def on_train_epoch_end(self) -> None:
        self.draws.append(float(torch.rand(())))
        self.computed.append(float(self.scores["r2"].compute()))

    def configure_optimizers(self) -> Any:
        return Rough(self.parameters(), lr=1.0)


class SetRates(Callback):
    """Sets the rate of each step."""

    def __init__(self, rates: list[float]) -> None:
        self.rates = rates

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        optimizer.param_groups[0]["lr"] = self.rates[trainer.global_step]


@pytest.mark.parametrize("accumulated", [1, 3])
def test_trials_leave_no_trace(tmp_path: Path, accumulated: int) -> None:
    """A fit whose rates are set by hand, to those measured, ends in the same bits: weights, buffers, metrics, logs."""
    rates, runs, logged = Rates(), [], []
    for callbacks in ([MeasuredLearningRate(), rates], [SetRates(rates.rates)]):
        torch.manual_seed(1)
        np.random.seed(1)
        module = Noisy()
        logger = CSVLogger(tmp_path, version=len(runs))
        options = {"accumulate_grad_batches": accumulated, "log_every_n_steps": 1, "max_epochs": 3}
        trainer = fit(module, *callbacks, logger=logger, **options)
        runs.append(module)
        with open(logger.experiment.metrics_file_path) as file:
            rows = [{name: row[name] for name in row if name != "lr/measured"} for row in csv.DictReader(file)]
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items() if name != "lr/measured"}
        logged.append(([row for row in rows if row["loss_step"] or row["loss_epoch"]], metrics))
    measured_run, by_hand = runs
    for one, other in zip(measured_run.state_dict().values(), by_hand.state_dict().values(), strict=True):
        assert torch.equal(one, other)
    for one, other in zip(
        trainer.optimizers[0].state_dict()["state"][0].values(),
        measured_run.trainer.optimizers[0].state_dict()["state"][0].values(),
        strict=True,
    ):
        assert torch.equal(one, other)
    assert measured_run.computed == by_hand.computed
    assert measured_run.draws == by_hand.draws
    assert logged[0] == logged[1]


class Repeat(Callback):
    """Computes the loss of each step again before it is made."""

    def __init__(self) -> None:
        self.differences: list[float] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx == 0 and trainer.current_epoch == 0:
            self.batches = ReplayedBatches(trainer, pl_module)
        self.batches.begin(batch, batch_idx)

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        self.batches.add_loss(loss)

    def on_before_optimizer_step(self, *_: Any) -> None:
        self.differences += [float(self.batches.evaluate() - self.batches.loss()) for _ in range(2)]


def test_a_run_shorter_than_its_measurement_says_the_rate_at_its_end(caplog: pytest.LogCaptureFixture) -> None:
    callback = MeasuredLearningRate()
    with caplog.at_level(logging.INFO):
        fit(Regression(with_rate(AdamW, lr=9.0)), callback, max_steps=5)
    (line,) = [each.message for each in caplog.records if "MeasuredLearningRate" in each.message]
    assert line.startswith(f"MeasuredLearningRate: peak learning rate {callback.peak:.3g}, measured in 5 steps (")


@pytest.mark.parametrize("accumulated", [1, 3])
def test_a_loss_computed_again_has_the_draws_of_the_first_time(accumulated: int) -> None:
    repeat = Repeat()
    fit(Noisy(), repeat, accumulate_grad_batches=accumulated)
    assert len(repeat.differences) == 2 * math.ceil(12 / accumulated) * 2
    assert max(map(abs, repeat.differences)) < 1e-6


def test_the_rate_is_logged_and_said_in_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    callback, logger = MeasuredLearningRate(), CSVLogger(tmp_path)
    with caplog.at_level(logging.INFO):
        monitor = LearningRateMonitor("step")
        trainer = fit(Regression(with_rate(AdamW, lr=9.0)), callback, monitor, logger=logger, log_every_n_steps=1)
    lines = [each.message for each in caplog.records if "MeasuredLearningRate" in each.message]
    expected = f"MeasuredLearningRate: peak learning rate {callback.peak:.3g}, measured in 20 steps ("
    assert lines == [f"{expected}{callback.passes} forward passes)"]
    assert 7 <= callback.passes <= 12, "a search in steps 1, 2, 3, 4, 6, 9 and 13, and 19 is one too"
    assert float(trainer.callback_metrics["lr/measured"]) == pytest.approx(callback.peak)
    with open(logger.experiment.metrics_file_path) as file:
        rows = list(csv.DictReader(file))
    assert [float(row["lr/measured"]) for row in rows if row["lr/measured"]][-1] == callback.peak
    assert [float(row["lr-AdamW"]) for row in rows if row["lr-AdamW"]][-1] == pytest.approx(callback.peak)
    assert vars(trainer.optimizers[0]).get("step") is None, "the optimizer has its own step again"


def test_a_second_fit_is_measured_anew() -> None:
    callback = MeasuredLearningRate()
    fit(Regression(with_rate(AdamW, lr=1.0)), callback)
    of_first = callback.peak
    fit(Regression(with_rate(SGD, lr=1.0)), callback)
    assert callback.peak != of_first


def test_a_run_without_anything_to_descend_keeps_its_weights() -> None:
    """A gradient of zero: weight decay at the rate that was given would end the weights."""
    module = Regression(with_rate(AdamW, lr=1.0, weight_decay=0.5), factor=0.0)
    start, callback = module.weight.detach().clone(), MeasuredLearningRate()
    fit(module, callback, max_steps=5)
    assert callback.peak is None
    assert torch.equal(module.weight, start)
    assert module.rates[-1] == [1.0]
