"""MeasuredLearningRate with schedules and parameter groups: their shapes and ratios stay."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import BaseFinetuning, ModelCheckpoint
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim import lr_scheduler as schedules

from callbacks import MeasuredLearningRate
from tests.callbacks.measured_regression import ROWS, Regression, fit, measured, sequential


def linear(optimizer: Any) -> Any:
    return schedules.LambdaLR(optimizer, lambda step: min(1, step / 6) * (1 - step / 60))


def noam(optimizer: Any) -> Any:
    """Its peak is a thousandth of the optimizer's rate."""
    return schedules.LambdaLR(optimizer, lambda step: 1e-3 * min((step + 1) / 10, math.sqrt(10 / (step + 1))))


def chained(optimizer: Any) -> Any:
    parts = [schedules.LinearLR(optimizer, 0.1, total_iters=10), schedules.ExponentialLR(optimizer, 0.97)]
    return schedules.ChainedScheduler(parts)


SCHEDULES = {
    "linear": linear,
    "noam": noam,
    "sequential": sequential,
    "chained": chained,
    "one cycle": lambda optimizer: schedules.OneCycleLR(optimizer, max_lr=5.0, total_steps=60, cycle_momentum=False),
    "cyclic": lambda optimizer: schedules.CyclicLR(optimizer, 0.5, 2.0, step_size_up=7, cycle_momentum=False),
    "restarts": lambda optimizer: schedules.CosineAnnealingWarmRestarts(optimizer, 9, eta_min=0.2),
    "steps": lambda optimizer: schedules.MultiStepLR(optimizer, [20, 40]),
    "factors": lambda optimizer: schedules.MultiplicativeLR(optimizer, lambda step: 0.98),
    "polynomial": lambda optimizer: schedules.PolynomialLR(optimizer, 60),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_keeps_its_shape_and_its_peak_is_the_rate_measured(name: str) -> None:
    def configure(module: Any) -> Any:
        optimizer = AdamW(module.parameters(), lr=2.0)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": SCHEDULES[name](optimizer), "interval": "step"}}

    peak, module = measured(configure, max_epochs=5)
    plain = Regression(configure)
    fit(plain, max_epochs=5)
    given, set_ = np.array(plain.rates), np.array(module.rates)
    # `rates` are read after a step; schedules advance after that.
    np.testing.assert_allclose(set_[31:], given[31:] * peak / given.max(), rtol=1e-6, atol=1e-12)
    np.testing.assert_array_less(set_[:31], given[:31] * peak / given.max() * (1 + 1e-6) + 1e-12)


def test_a_schedule_by_epochs_that_waits_for_a_plateau_goes_on_from_the_measured_rate() -> None:
    def configure(module: Any) -> Any:
        optimizer = AdamW(module.parameters(), lr=100.0)
        schedule = schedules.ReduceLROnPlateau(optimizer, factor=0.1, patience=0, min_lr=5.0)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "monitor": "constant"}}

    class Constant(Callback):
        def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            pl_module.log("constant", 1.0)

    callback, module = MeasuredLearningRate(), Regression(configure)
    fit(module, callback, Constant(), max_epochs=6)
    assert callback.peak is not None
    # Lowered to a tenth after the second epoch and each later one; min_lr is a twentieth of the rate given.
    assert module.rates[-1][0] == pytest.approx(0.05 * callback.peak)


def test_groups_keep_their_ratios() -> None:
    class Two(Regression):
        def __init__(self) -> None:
            super().__init__(self.groups)
            self.bias = nn.Parameter(torch.zeros((), dtype=torch.float64))
            self.still = nn.Parameter(torch.zeros((), dtype=torch.float64))

        @staticmethod
        def groups(module: Any) -> Any:
            groups = [
                {"params": [module.weight], "lr": 1e-2},
                {"params": [module.bias], "lr": 4e-2},
                {"params": [module.still], "lr": 0.0},
            ]
            return AdamW(groups)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x, y = batch
            return ((x @ self.weight + self.bias + self.still - y) ** 2).mean()

    callback, module = MeasuredLearningRate(), Two()
    fit(module, callback)
    assert callback.peak is not None
    np.testing.assert_allclose(module.rates[-1], [callback.peak / 4, callback.peak, 0.0])
    assert module.still.item() == 0


class WithBias(Regression):
    """A regression whose bias trains later."""

    def __init__(self, rate: float = 1.0) -> None:
        super().__init__(lambda module: AdamW([module.weight], lr=rate, weight_decay=0.0))
        self.bias = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        return (((x * self.weight).sum(1) + self.bias - y - 5) ** 2).mean()


class Unfreezes(BaseFinetuning):
    """Adds the bias to the optimizer at the start of an epoch, at a share of the first group's rate or at its own."""

    def __init__(self, epoch: int, share: float | None) -> None:
        super().__init__()
        self.epoch, self.share = epoch, share

    def freeze_before_training(self, pl_module: Any) -> None:
        pass  # lightning 2.6.6 would freeze the bias once more where a run goes on

    def finetune_function(self, pl_module: Any, epoch: int, optimizer: Any) -> None:
        if epoch == self.epoch:
            rate = {} if self.share is None else {"lr": optimizer.param_groups[0]["lr"] * self.share}
            optimizer.add_param_group({"params": [pl_module.bias], **rate})


@pytest.mark.parametrize("share", [None, 0.25, 4.0])
@pytest.mark.parametrize("epoch", [1, 4], ids=["within the measurement", "after it"])
def test_a_group_that_is_added_has_the_rate_measured_anew_and_keeps_its_ratio(epoch: int, share: float | None) -> None:
    runs = []
    for rate in (1e-4, 10.0):
        callback, module = MeasuredLearningRate(), WithBias(rate)
        fit(module, callback, Unfreezes(epoch, share), max_epochs=6)
        runs.append(module)
        assert callback.peak == pytest.approx(max(module.rates[-1]))
        for one, other in module.rates[12 * epoch :]:
            assert other == pytest.approx(one * (share or 1.0))
        assert len({rates[0] for rates in module.rates[12 * epoch - 1 :]}) > 2
    np.testing.assert_allclose(runs[0].rates[-1], runs[1].rates[-1], rtol=1e-6)
    torch.testing.assert_close(runs[0].bias, runs[1].bias)


def test_a_group_that_is_added_after_the_measured_part_is_measured_for_twenty_steps() -> None:
    passes = []

    class Passes(Callback):
        def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
            passes.append(callback.passes)

    callback = MeasuredLearningRate()
    fit(WithBias(), callback, Unfreezes(60, None), Passes(), max_epochs=100, batch=ROWS)
    assert passes[49] == passes[59] < passes[60] < passes[79] == passes[99]


@pytest.mark.parametrize("step", [24, 36, 60])
def test_a_run_to_which_a_group_was_added_goes_on_to_the_bit(tmp_path: Path, step: int) -> None:
    whole, callback = WithBias(), MeasuredLearningRate()
    saver = ModelCheckpoint(tmp_path, every_n_train_steps=step, save_top_k=-1, filename="{step}")
    options: dict[str, Any] = {"max_epochs": 72, "batch": ROWS}
    fit(whole, callback, Unfreezes(48, None), saver, **options)
    resumed, goes_on = WithBias(), MeasuredLearningRate()
    fit(resumed, goes_on, Unfreezes(48, None), resume=tmp_path / f"step={step}.ckpt", **options)
    assert torch.equal(resumed.bias, whole.bias)
    assert torch.equal(resumed.weight, whole.weight)
    assert (goes_on.peak, goes_on.passes) == (callback.peak, callback.passes)


def test_a_rate_kept_as_a_tensor_is_set_in_place() -> None:
    rate = torch.tensor(5.0)
    callback, module = MeasuredLearningRate(), Regression(lambda m: AdamW(m.parameters(), lr=rate, foreach=False))
    trainer = fit(module, callback)
    assert trainer.optimizers[0].param_groups[0]["lr"] is rate
    assert float(rate) == pytest.approx(callback.peak)
