"""MeasuredLearningRate: what it measures, against formulas of its own."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW
from torch.utils.data import DataLoader, TensorDataset

from callbacks import MeasuredLearningRate
from lightning_modules import GradientClip
from optimizers import ParabolicAdam
from tests.callbacks.measured_regression import (
    INPUTS,
    ROWS,
    Manual,
    Regression,
    Single,
    fit,
    measured,
    table,
    with_rate,
)


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


@settings(max_examples=8)
@given(
    exponent=st.floats(-12, 6), factory=st.sampled_from([AdamW, SGD, partial(SGD, momentum=0.9), torch.optim.RMSprop])
)
def test_the_rate_that_was_given_does_not_matter(exponent: float, factory: Any) -> None:
    options = {"max_epochs": 1}
    expected, reference = measured(with_rate(factory, lr=1.0), **options)
    peak, module = measured(with_rate(factory, lr=10.0**exponent), **options)
    assert peak == pytest.approx(expected, rel=1e-9)
    torch.testing.assert_close(module.weight, reference.weight, rtol=1e-9, atol=0)


@settings(max_examples=8)
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


@pytest.mark.parametrize("kind", ["automatic", "manual"])
def test_a_second_fit_of_a_trainer_is_measured_as_the_first(kind: str) -> None:
    """The trainer counts steps and epochs on, and its limits count from 0."""

    def module() -> Any:
        adamw = partial(AdamW, lr=1.0)
        return Manual(optimizer=adamw) if kind == "manual" else Regression(with_rate(adamw))

    first, once = module(), MeasuredLearningRate()
    fit(first, once, max_epochs=4)
    again, callback = module(), MeasuredLearningRate()
    trainer = fit(module(), callback, max_epochs=2)
    trainer.fit_loop.max_epochs = 6
    trainer.fit(again, DataLoader(TensorDataset(*table()), batch_size=8))
    assert trainer.global_step == 72
    assert (callback.peak, callback.passes) == (once.peak, once.passes)
    assert torch.equal(again.weight, first.weight)


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
