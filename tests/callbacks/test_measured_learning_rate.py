"""MeasuredLearningRate: what it measures, against formulas of its own; that it leaves no trace; what it is refused."""

from __future__ import annotations

import csv
import logging
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import dadaptation
import dog
import momo
import numpy as np
import prodigyopt
import pytest
import schedulefree
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import (
    BackboneFinetuning,
    BaseFinetuning,
    LearningRateFinder,
    LearningRateMonitor,
    ModelCheckpoint,
    StochasticWeightAveraging,
)
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW
from torch.optim import lr_scheduler as schedules
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MeanAbsoluteError, MetricCollection, R2Score

from callbacks import GradualUnfreezing, MeasuredLearningRate
from callbacks.trainer.replayed_batches import ReplayedBatches
from lightning_modules import ClosureModule, GradientClip, Schedule
from lightning_modules.schedules import LinearWithWarmup
from optimizers import GLD, ParabolicAdam, SaLSA, step_direction
from optimizers.step_direction import StepDirection
from tests.quiet_trainer import quiet_trainer

INPUTS, ROWS = 6, 96
FACTORIES = [AdamW, SGD, partial(SGD, momentum=0.9), torch.optim.RMSprop]


def table(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Rows of a regression in float64, half of whose variance is noise."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(ROWS, INPUTS, generator=generator, dtype=torch.float64)
    weights = torch.randn(INPUTS, generator=generator, dtype=torch.float64)
    return x, x @ weights + weights.norm() * torch.randn(ROWS, generator=generator, dtype=torch.float64)


class Regression(LightningModule):
    """A quadratic of known curvature: linear regression, with whatever `configure_optimizers` is given."""

    def __init__(self, configure: Callable[[nn.Module], Any], factor: float = 1.0) -> None:
        super().__init__()
        self.configure, self.factor = configure, factor
        self.weight = nn.Parameter(torch.linspace(-1, 1, INPUTS, dtype=torch.float64))
        self.rates: list[list[float]] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        return self.factor * (((x * self.weight).sum(1) - y) ** 2).mean()

    def configure_optimizers(self) -> Any:
        return self.configure(self)

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        self.rates.append([float(group["lr"]) for group in optimizer.param_groups])


class Single(Regression):
    """The regression in float32, as a matrix product, which autocast computes in half precision."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__(with_rate(SGD, lr=1.0), factor)
        self.float()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = (each.float() for each in batch)
        return self.factor * ((x @ self.weight - y) ** 2).mean()


class Manual(ClosureModule):
    """The same regression with the steps of this project."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.weight = nn.Parameter(torch.linspace(-1, 1, INPUTS))

    def compute_loss(self, batch: Any) -> Tensor:
        x, y = (each.float() for each in batch)
        # Not a matrix product: MKL's last bit depends on where in memory its operands lie.
        return (((x * self.weight).sum(1) - y) ** 2).mean()


def fit(module: LightningModule, *callbacks: Callback, batch: int = 8, resume: Any = None, **options: Any) -> Trainer:
    saves = any(isinstance(each, ModelCheckpoint) for each in callbacks)
    settings = {"callbacks": list(callbacks), "enable_checkpointing": saves, "max_epochs": 2}
    trainer = quiet_trainer(**settings | options)
    trainer.fit(module, DataLoader(TensorDataset(*table()), batch_size=batch), ckpt_path=resume)
    return trainer


def with_rate(factory: Any, **options: Any) -> Callable[[nn.Module], Any]:
    return lambda module: factory(module.parameters(), **options)


def measured(configure: Any, *, factor: float = 1.0, **options: Any) -> tuple[float, Regression]:
    """Fit, and return the peak with the module."""
    callback, module = MeasuredLearningRate(), Regression(configure, factor)
    fit(module, callback, **options)
    assert callback.peak is not None
    return callback.peak, module


# What is measured


class Reference:
    """The measurement in NumPy, for a linear regression: exact curvatures, and the optimizers' formulas written out."""

    def __init__(self, kind: str, total: int, batch: int = 8) -> None:
        x, y = (each.numpy() for each in table())
        theta, m, v = np.linspace(-1, 1, INPUTS), np.zeros(INPUTS), np.zeros(INPUTS)
        sums, earlier = np.zeros(2), None
        log_mu = weight = searched = best = longest = 0.0
        begun, in_force = 0, 0.0
        self.rates, self.restarts = [], 0
        for k in range(1, total + 1):
            rows = [(k - 1) * batch % ROWS + i for i in range(batch)]
            error = x[rows] @ theta - y[rows]
            loss, g = np.mean(error**2), 2 * x[rows].T @ error / batch
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
            adam = m / (1 - 0.9**k) / (np.sqrt(v / (1 - 0.999**k)) + 1e-8)
            d = {"Adam": adam, "SGD": g, "momentum": 10 * m}[kind]
            if k <= max(begun + 20, total // 2):
                due = not searched or k - begun - searched >= max(1, searched // 2)
                is_longer = np.linalg.norm(d) > 2 * longest > 0
                if is_longer:
                    # Where nothing is searched, the direction is that of the step made, and known after it.
                    begun, sums = k - 1 if due else k, np.zeros(2)
                    weight = searched = best = longest = 0.0
                    self.restarts += 1
                longest = max(longest, np.linalg.norm(d))
                slope, age = g @ d, k - begun
                if earlier is not None and not (is_longer and not due):
                    sums += age * np.array([g @ earlier, slope]) / (abs(g @ earlier) + abs(slope))
                if due:
                    agreement = min(1, max(0.02, (sums[0] / age + 1.5) / (sums[1] / age + 10)))
                    if slope > 0:
                        curvature = 2 * np.mean((x[rows] @ d) ** 2)
                        if searched:
                            # The minimiser is at most ten probes away, and a probe at a fifth of the distance.
                            curvature = max(curvature, slope / (10 * 0.2 * np.exp(log_mu)))
                        w = age * (age - searched)
                        weight += w
                        log_mu += (0.5 * np.log(2 * loss / curvature) - log_mu) * w / weight
                    searched = age
                    best = max(best, agreement * np.exp(log_mu))
                earlier = d
            # What was measured stays in force until there is another rate.
            in_force = best or in_force
            self.rates.append(max(0.12, min(0.5, 13 / total)) * in_force)
            theta = theta - self.rates[-1] * d
        self.theta = theta


OPTIMIZERS = {"Adam": Adam, "SGD": SGD, "momentum": partial(SGD, momentum=0.9)}


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("epochs", [2, 5], ids=["24 steps", "60 steps"])
def test_rates_and_steps_are_those_of_the_formulas(kind: str, epochs: int) -> None:
    _, module = measured(with_rate(OPTIMIZERS[kind], lr=3.0), max_epochs=epochs)
    expected = Reference(kind, 12 * epochs)
    np.testing.assert_allclose([rates[0] for rates in module.rates], expected.rates, rtol=1e-6)
    np.testing.assert_allclose(module.weight.detach().numpy(), expected.theta, rtol=1e-6)
    # A momentum that builds up makes the direction longer, which has it measured anew.
    assert bool(expected.restarts) == (kind == "momentum")


def test_the_first_rate_is_that_of_parabolic_adam_and_later_ones_are_near_it() -> None:
    x, y = table()
    weight = nn.Parameter(torch.linspace(-1, 1, INPUTS, dtype=torch.float64))
    optimizer = ParabolicAdam([weight], weight_decay=0.0, total_steps=60)
    peaks = []
    for step in range(60):
        rows = slice(step * 8 % ROWS, step * 8 % ROWS + 8)

        def closure(rows: slice = rows) -> Tensor:
            optimizer.zero_grad()
            loss = ((x[rows] @ weight - y[rows]) ** 2).mean()
            loss.backward()
            return loss

        optimizer.step(closure)
        peaks.append(13 / 60 * optimizer.param_groups[0]["minimiser"])
    # No warm-up here, so that the weights are elsewhere from the second step on.
    _, module = measured(with_rate(Adam, lr=1.0), max_epochs=5)
    assert module.rates[0][0] == pytest.approx(peaks[0], rel=1e-5)
    assert module.rates[-1][0] == pytest.approx(peaks[-1], rel=0.3)


@settings(max_examples=8, deadline=None)
@given(
    exponent=st.floats(-12, 6), factory=st.sampled_from([AdamW, SGD, partial(SGD, momentum=0.9), torch.optim.RMSprop])
)
def test_the_rate_that_was_given_does_not_matter(exponent: float, factory: Any) -> None:
    options = {"max_epochs": 1}
    expected, reference = measured(with_rate(factory, lr=1.0), **options)
    peak, module = measured(with_rate(factory, lr=10.0**exponent), **options)
    assert peak == pytest.approx(expected, rel=1e-9)
    torch.testing.assert_close(module.weight, reference.weight, rtol=1e-9, atol=0)


@settings(max_examples=8, deadline=None)
@given(exponent=st.floats(-8, 8))
def test_a_rate_scales_as_its_optimizer_does_with_the_loss(exponent: float) -> None:
    factor = 10.0**exponent
    of_sgd = measured(with_rate(SGD, lr=1.0), max_epochs=1)[0]
    assert measured(with_rate(SGD, lr=1.0), factor=factor, max_epochs=1)[0] == pytest.approx(of_sgd / factor, rel=1e-4)
    of_adam = measured(with_rate(Adam, lr=1.0, eps=0.0), max_epochs=1)[0]
    scaled = measured(with_rate(Adam, lr=1.0, eps=0.0), factor=factor, max_epochs=1)[0]
    assert scaled == pytest.approx(of_adam, rel=1e-4)


def test_gradients_that_float32_rounds_away_at_ordinary_rates_are_measured() -> None:
    """A step of 1e-2 along gradients of about 1e-8 leaves most weights as they are."""
    plain, tiny = MeasuredLearningRate(), MeasuredLearningRate()
    fit(Single(), plain, max_epochs=1)
    fit(Single(1e-8), tiny, max_epochs=1)
    assert tiny.peak == pytest.approx(1e8 * plain.peak, rel=1e-2)


class DecayInPlace(SGD):
    """Adds weight decay to the gradients themselves, as some optimizers do."""

    def step(self, closure: Any = None) -> Any:
        loss = None if closure is None else closure()
        for p in self.param_groups[0]["params"]:
            p.grad.add_(p.detach(), alpha=0.5)
        super().step()
        return loss


def test_slopes_are_those_of_the_loss_whatever_an_optimizer_does_to_the_gradients() -> None:
    expected, _ = measured(with_rate(SGD, lr=1.0, weight_decay=0.5))
    assert measured(with_rate(DecayInPlace, lr=1.0))[0] == pytest.approx(expected, rel=1e-9)


def test_two_accumulated_batches_are_one_of_double_size() -> None:
    whole, module = measured(with_rate(AdamW, lr=1.0), batch=16)
    halves, other = measured(with_rate(AdamW, lr=1.0), batch=8, accumulate_grad_batches=2)
    assert halves == pytest.approx(whole, rel=1e-8)
    torch.testing.assert_close(module.weight, other.weight, rtol=1e-8, atol=0)


def test_clipping_shortens_the_step_and_not_the_slope() -> None:
    """The distance is measured along the step that is made: where clipping shortens that, the rate is larger."""
    clip = 1e-3
    free, module = measured(with_rate(SGD, lr=1.0), max_steps=1)
    clipped, other = measured(with_rate(SGD, lr=1.0), max_steps=1, gradient_clip_val=clip)
    assert clipped > 100 * free
    torch.testing.assert_close(module.weight, other.weight, rtol=1e-6, atol=0)


@pytest.mark.parametrize("clip", [None, 0.1])
def test_a_closure_module_is_measured_alike(clip: float | None) -> None:
    options: dict[str, Any] = {"max_epochs": 2}
    callback = MeasuredLearningRate()
    manual = Manual(
        optimizer=partial(Adam, lr=7.0),
        accumulate_grad_batches=2,
        gradient_clip=None if clip is None else GradientClip(clip),
    )
    fit(manual, callback, **options)
    peak, module = measured(with_rate(Adam, lr=1.0), accumulate_grad_batches=2, gradient_clip_val=clip, **options)
    assert callback.peak == pytest.approx(peak, rel=1e-3)
    torch.testing.assert_close(manual.weight, module.weight.float(), rtol=1e-3, atol=1e-4)


def test_the_length_of_a_closure_modules_run_is_the_shorter_of_its_two_limits() -> None:
    """The peak is a share of 13 / T in a run of T steps: a wrong length shows."""

    def peak(**options: Any) -> float | None:
        callback = MeasuredLearningRate()
        fit(Manual(optimizer=partial(Adam, lr=1.0)), callback, **options)
        return callback.peak

    assert peak(max_epochs=2) == peak(max_steps=24, max_epochs=-1) == peak(max_steps=24, max_epochs=9)
    assert peak(max_epochs=2) == peak(max_steps=99, max_epochs=2)


def test_between_batches_the_optimizer_has_its_own_step() -> None:
    class Watch(Callback):
        replaced: ClassVar[list[bool]] = []

        def on_before_optimizer_step(self, trainer: Trainer, *_: Any) -> None:
            self.replaced.append("step" in vars(trainer.optimizers[0]))

        def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
            self.replaced.append("step" in vars(trainer.optimizers[0]))

    fit(Regression(with_rate(SGD, lr=1.0)), MeasuredLearningRate(), Watch(), max_steps=3)
    assert Watch.replaced == [True, False] * 3


def scaling(power: int) -> MixedPrecision:
    return MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=2.0**power))


def test_a_gradient_scaler_does_not_change_the_rate() -> None:
    full, mixed = MeasuredLearningRate(), MeasuredLearningRate()
    fit(Single(), full, max_epochs=1)
    fit(Single(), mixed, max_epochs=1, plugins=[scaling(8)])
    assert mixed.peak == pytest.approx(full.peak, rel=0.05)  # the passes are in float16


def test_batches_of_a_step_that_a_scaler_leaves_out_are_forgotten() -> None:
    one, third = MeasuredLearningRate(), MeasuredLearningRate()
    fit(Single(), one, batch=ROWS, max_epochs=1, plugins=[scaling(8)])
    trainer = fit(Single(), third, batch=ROWS, max_epochs=3, plugins=[scaling(15)])
    assert trainer.precision_plugin.scaler.get_scale() == 2.0**13, "two of the three steps were left out"
    assert third.peak == pytest.approx(one.peak, rel=1e-2)


# Schedules and groups


def linear(optimizer: Any) -> Any:
    return schedules.LambdaLR(optimizer, lambda step: min(1, step / 6) * (1 - step / 60))


def noam(optimizer: Any) -> Any:
    """Its peak is a thousandth of the optimizer's rate."""
    return schedules.LambdaLR(optimizer, lambda step: 1e-3 * min((step + 1) / 10, math.sqrt(10 / (step + 1))))


def sequential(optimizer: Any) -> Any:
    parts = [
        schedules.LinearLR(optimizer, 0.1, total_iters=10),
        schedules.CosineAnnealingLR(optimizer, 50, eta_min=0.1),
    ]
    return schedules.SequentialLR(optimizer, parts, [10])


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


class InPlace(Regression):
    """Changes its batch, as a step that masks tokens or scales images does."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, _ = batch
        x.mul_(2)
        return super().training_step(batch, batch_idx)


class Scaled(Regression):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        return super().training_step((2 * x, y), batch_idx)


@pytest.mark.parametrize("accumulated", [1, 3])
def test_a_step_may_change_its_batch_in_place(accumulated: int) -> None:
    peaks = []
    for kind in (InPlace, Scaled):
        callback = MeasuredLearningRate()
        fit(kind(with_rate(SGD, lr=1.0)), callback, accumulate_grad_batches=accumulated)
        peaks.append(callback.peak)
    assert peaks[0] == peaks[1]


class Complex(Regression):
    """The regression with pairs of weights as complex numbers."""

    def __init__(self) -> None:
        super().__init__(with_rate(SGD, lr=1.0))
        self.weight = nn.Parameter(torch.view_as_complex(self.weight.detach().view(-1, 2)))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        return ((x @ torch.view_as_real(self.weight).flatten() - y) ** 2).mean()


def test_complex_parameters_are_measured_as_pairs_of_numbers() -> None:
    found, expected = MeasuredLearningRate(), MeasuredLearningRate()
    fit(Complex(), found)
    fit(Regression(with_rate(SGD, lr=1.0)), expected)
    assert found.peak == pytest.approx(expected.peak)


def test_a_direction_shows_in_spite_of_the_rounding_of_bfloat16() -> None:
    torch.manual_seed(0)
    rough, exact = (nn.Parameter(torch.ones(500, dtype=dtype)) for dtype in (torch.bfloat16, torch.float32))
    rough.grad = torch.randn(500).bfloat16()
    exact.grad = rough.grad.float()
    (found,), (expected,) = (StepDirection(AdamW([each], lr=1e-5), [1.0]).find() for each in (rough, exact))
    assert (found - expected).norm() < 0.02 * expected.norm()


# What a fit is left like


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


class Rates(Callback):
    """Notes the rate of each step."""

    def __init__(self) -> None:
        self.rates: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if len(self.rates) < trainer.global_step:
            self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])


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


# Checkpoints


class Stop(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            raise KeyboardInterrupt


@pytest.mark.parametrize("step", [1, 7, 12, 24, 40], ids=lambda step: f"after step {step}")
@pytest.mark.parametrize("kind", ["automatic", "manual"])
def test_a_run_goes_on_from_a_checkpoint_to_the_bit(tmp_path: Path, step: int, kind: str) -> None:
    """Lightning repeats a broken epoch from its first batch under automatic optimization: epochs of one batch here."""
    options: dict[str, Any] = {"max_epochs": 5} if kind == "manual" else {"max_epochs": 60, "batch": ROWS}

    def module() -> Any:
        if kind == "manual":
            return Manual(optimizer=partial(AdamW, lr=1.0), lr_scheduler=Schedule(LinearWithWarmup))

        def configure(module: Any) -> Any:
            optimizer = AdamW(module.parameters(), lr=2.0)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": sequential(optimizer), "interval": "step"}}

        return Regression(configure)

    whole, callback = module(), MeasuredLearningRate()
    saver = ModelCheckpoint(tmp_path, every_n_train_steps=step, save_top_k=-1, filename="{step}")
    fit(whole, callback, saver, **options)
    resumed, goes_on = module(), MeasuredLearningRate()
    fit(resumed, goes_on, resume=tmp_path / f"step={step}.ckpt", **options)
    assert torch.equal(resumed.weight, whole.weight)
    assert (goes_on.peak, goes_on.passes) == (callback.peak, callback.passes)


def test_a_longer_run_keeps_the_rate_that_was_measured(tmp_path: Path) -> None:
    """ClosureModule lays the schedule anew over the new length, from the rates that the optimizer is made with."""

    def module() -> Manual:
        return Manual(optimizer=partial(AdamW, lr=1e3), lr_scheduler=Schedule(LinearWithWarmup))

    callback, saver = MeasuredLearningRate(), ModelCheckpoint(tmp_path, save_last=True)
    fit(module(), callback, saver, max_epochs=4)
    goes_on, rates = MeasuredLearningRate(), Rates()
    fit(module(), goes_on, rates, max_epochs=8, resume=tmp_path / "last.ckpt")
    assert goes_on.peak == callback.peak
    # Of 96 steps 10 are the warm-up; Lightning's first step of the resumed run is the 49th.
    assert rates.rates[-24] == pytest.approx(goes_on.peak * 24 / 86, rel=0.05)


def test_a_run_that_began_without_it_keeps_its_rate(tmp_path: Path) -> None:
    saver = ModelCheckpoint(tmp_path, save_last=True)
    fit(Regression(with_rate(AdamW, lr=0.125)), saver, max_epochs=1)
    module, callback = Regression(with_rate(AdamW, lr=0.125)), MeasuredLearningRate()
    with pytest.warns(UserWarning, match="was not measured from its start; its learning rate stays"):
        fit(module, callback, max_epochs=2, resume=tmp_path / "last.ckpt")
    assert module.rates[-1] == [0.125]
    assert callback.peak is None


# Ranks


class Told(Callback):
    """Writes what each rank ends with."""

    def __init__(self, folder: Path, measurement: MeasuredLearningRate) -> None:
        self.folder, self.measurement = folder, measurement

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        found = {"peak": self.measurement.peak, "weight": pl_module.weight.detach()}
        torch.save(found, self.folder / f"rank{trainer.global_rank}.pt")


@pytest.mark.distributed
@pytest.mark.parametrize("kind", ["automatic", "manual"])
def test_two_ranks_measure_what_one_measures_on_all_rows(tmp_path: Path, kind: str) -> None:
    def train(ranks: int) -> list[dict[str, Any]]:
        module = Manual(optimizer=partial(AdamW, lr=1.0)) if kind == "manual" else Regression(with_rate(AdamW, lr=1.0))
        strategy = DDPStrategy(start_method="fork", process_group_backend="gloo") if ranks > 1 else "auto"
        callback = MeasuredLearningRate()
        fit(
            module,
            callback,
            Told(tmp_path, callback),
            batch=ROWS // ranks,
            devices=ranks,
            strategy=strategy,
            max_epochs=12,
        )
        return [torch.load(tmp_path / f"rank{rank}.pt") for rank in range(ranks)]

    (alone,), (first, second) = train(1), train(2)
    assert first["peak"] == second["peak"]
    assert torch.equal(first["weight"], second["weight"])
    assert first["peak"] == pytest.approx(alone["peak"], rel=1e-3 if kind == "manual" else 1e-6)
    torch.testing.assert_close(first["weight"], alone["weight"], rtol=1e-3, atol=1e-4)


# What is refused


class ByHand(Regression):
    """Manual optimization of a module of one's own."""

    def __init__(self) -> None:
        super().__init__(with_rate(AdamW, lr=1.0))
        self.automatic_optimization = False


class FromIterator(Regression):
    def training_step(self, dataloader_iter: Any) -> Tensor:
        raise AssertionError


class OwnPlace(schedules.LRScheduler):
    """A schedule whose rates are not where torch keeps them."""

    def get_lr(self) -> list[Any]:
        return [3e-4 for _ in self.optimizer.param_groups]


def with_own_place(module: Any) -> Any:
    optimizer = AdamW(module.parameters(), lr=1.0)
    return [optimizer], [OwnPlace(optimizer)]


class Unable(SGD):
    """An optimizer whose step needs more than gradients."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__(module.parameters(), lr=1.0)

    def step(self, closure: Any = None) -> Any:
        raise KeyError("graph")


class GrowsInStep(Regression):
    """Has a parameter group added within a step."""

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        if self.trainer.global_step == 1:
            optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(1))], "lr": 1.0})


def schedule_free(module: Any) -> Any:
    optimizer = schedulefree.AdamWScheduleFree(module.parameters())
    optimizer.train()
    return optimizer


def free(factory: Any) -> Regression:
    return Regression(with_rate(factory))


@pytest.mark.parametrize(
    ("module", "others", "message"),
    [
        (lambda: free(ParabolicAdam), (), "ParabolicAdam finds its own step size"),
        (lambda: free(SaLSA), (), "SaLSA finds its own step size"),
        (lambda: Manual(optimizer=GLD), (), "GLD finds its own step size"),
        (lambda: free(torch.optim.LBFGS), (), "LBFGS computes the loss several times in a step"),
        (lambda: free(torch.optim.Rprop), (), "Rprop does not move in proportion to its learning rate"),
        (lambda: free(torch.optim.ASGD), (), "ASGD does not move in proportion to its learning rate"),
        (lambda: Regression(Unable), (), "a copy of Unable makes no step by its gradients alone: KeyError: 'graph'"),
        (lambda: Regression(schedule_free), (), "AdamWScheduleFree does not move in proportion"),
        (lambda: Regression(with_rate(SGD, lr=1.0, maximize=True)), (), "SGD maximizes"),
        (lambda: Regression(with_rate(SGD, lr=0.0)), (), "the learning rate is 0 throughout the run"),
        (lambda: Regression(lambda _: None), (), "there is no optimizer with parameters"),
        (lambda: GrowsInStep(with_rate(SGD, lr=1.0)), (), "the optimizer got a parameter group during a step"),
        (lambda: free(prodigyopt.Prodigy), (), "Prodigy finds its own learning rate, of which lr is a factor"),
        (lambda: free(dadaptation.DAdaptSGD), (), "DAdaptSGD finds its own learning rate"),
        (lambda: free(dadaptation.DAdaptLion), (), "DAdaptLion finds its own learning rate"),
        (lambda: free(dog.LDoG), (), "LDoG finds its own learning rate"),
        (lambda: free(momo.Momo), (), "Momo finds its own learning rate"),
        (lambda: Manual(optimizer=momo.MomoAdam), (), "a copy of MomoAdam makes no step by its gradients alone"),
        (ByHand, (), "ByHand makes its steps itself"),
        (lambda: FromIterator(with_rate(AdamW)), (), "takes its batches from dataloader_iter"),
        (lambda: Regression(with_own_place), (), "OwnPlace keeps learning rates in a place of its own"),
        (lambda: free(AdamW), (LearningRateFinder(),), "LearningRateFinder sets the learning rate as well"),
        (lambda: free(AdamW), (StochasticWeightAveraging(0.1),), "StochasticWeightAveraging sets the learning rate"),
        (lambda: free(AdamW), (BackboneFinetuning(),), "BackboneFinetuning sets the learning rate as well"),
        (lambda: free(AdamW), (GradualUnfreezing(),), "GradualUnfreezing lets more of the model train later"),
    ],
)
def test_what_cannot_be_measured_is_one_line(module: Any, others: Any, message: str) -> None:
    with pytest.raises(MisconfigurationException, match=f"^MeasuredLearningRate: .*{message}") as raised:
        fit(module(), MeasuredLearningRate(), *others)
    assert "\n" not in str(raised.value)


def test_an_error_of_the_module_in_a_trial_stays_what_it_is() -> None:
    class Fails(Regression):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            if not torch.is_grad_enabled():
                raise ValueError("of the module")
            return super().training_step(batch, batch_idx)

    with pytest.raises(ValueError, match=r"^of the module$"):
        fit(Fails(with_rate(SGD, lr=1.0)), MeasuredLearningRate())


def test_sharded_parameters_are_refused() -> None:
    trainer = Trainer(logger=False, accelerator="cpu")
    trainer.strategy.__class__ = FSDPStrategy  # which wants an accelerator
    with pytest.raises(MisconfigurationException, match="FSDPStrategy shards the parameters"):
        MeasuredLearningRate().setup(trainer, free(AdamW), "fit")


def test_a_fused_optimizer_under_a_scaler_is_refused() -> None:
    module = Regression(with_rate(AdamW, fused=True))
    with pytest.raises(MisconfigurationException, match="a fused AdamW unscales the gradients"):
        fit(module, MeasuredLearningRate(), plugins=[MixedPrecision("16-mixed", "cpu")])


@pytest.mark.parametrize(("name", "value"), [("peak_fraction", 0.0), ("peak_fraction", 2.0), ("measured_share", 1.5)])
def test_arguments_out_of_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(MisconfigurationException, match=f"MeasuredLearningRate: {name}: {value} is not allowed"):
        MeasuredLearningRate(**{name: value})


def test_a_copy_of_an_optimizer_calls_none_of_its_hooks() -> None:
    weight = nn.Parameter(torch.ones(2))
    weight.grad = torch.ones(2)
    optimizer, calls = SGD([weight], lr=1.0), []
    optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))
    StepDirection(optimizer, [1.0]).find()
    assert calls == []


def test_another_torch_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    names = step_direction._NOT_PUBLIC - {"_optimizer_step_pre_hooks"}
    monkeypatch.setattr(step_direction, "_NOT_PUBLIC", names)
    with pytest.raises(RuntimeError, match=r"torch 2\.\d+.*_optimizer_step_pre_hooks"):
        StepDirection(SGD([nn.Parameter(torch.ones(2))], lr=1.0), [1.0])
