"""The least learning rate that is measured where the loss is very steep along the first steps."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, Adamax, AdamW, NAdam, Optimizer, RMSprop

from optimizers import ParabolicAdam, RateMeasurement

SHAPE = (20, 30)
TOTAL_STEPS = 200  # a run so long that its peak is the share `peak_fraction` of the distance


def steep_problem() -> tuple[nn.Parameter, Callable[[], Tensor]]:
    """A matrix, and a loss that is very steep along the sum of its entries."""
    generator = torch.Generator().manual_seed(0)
    weight = nn.Parameter(torch.randn(SHAPE, generator=generator))
    start, slopes = weight.detach().clone(), torch.rand(SHAPE, generator=generator)
    return weight, lambda: 1 + (slopes * (weight - start)).sum() + 1e12 * (weight - start).sum().square()


def measured_peaks(make: Callable[..., Optimizer], steps: int = 1, resumed_at: int = -1) -> list[float]:
    """The peak learning rate after each step, all of which start where the first one does."""
    weight, loss_of = steep_problem()
    start = weight.detach().clone()
    optimizer = make([weight], lr=1e-3)
    found, peaks = RateMeasurement(optimizer, [1.0], TOTAL_STEPS), []
    for step in range(steps):
        if step == resumed_at:
            state = found.state_dict()
            found = RateMeasurement(optimizer, [1.0], TOTAL_STEPS)
            found.load_state_dict(state)
        optimizer.zero_grad()
        loss = loss_of()
        loss.backward()
        found.measure(loss, loss_of)
        optimizer.param_groups[0]["lr"] = found.peak
        optimizer.step()
        found.finish_step()
        weight.data.copy_(start)
        peaks.append(found.peak)
    return peaks


def hundredth_of_whole_change(length: float) -> float:
    """By spectral norms: that of a random matrix, and that of a step of rank one with a given Frobenius norm."""
    rows, columns = SHAPE
    rms = steep_problem()[0].square().mean().sqrt().item()
    return 0.01 * rms * (rows**0.5 + columns**0.5) / length


@pytest.mark.parametrize("kind", [AdamW, Adam, NAdam, Adamax, partial(RMSprop, alpha=0.99)])
def test_the_peak_is_at_least_a_hundredth_of_a_whole_change(kind: Any) -> None:
    # The first step of RMSprop, whose average starts at 0, is 1 / sqrt(1 - alpha) as long as Adam's; NAdam's is less.
    weight, loss_of = steep_problem()
    start = weight.detach().clone()
    optimizer = kind([weight], lr=1e-3)
    loss_of().backward()
    optimizer.step()
    length = float((weight.detach() - start).norm()) / 1e-3
    assert measured_peaks(kind) == pytest.approx([hundredth_of_whole_change(length)], rel=1e-3)


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn])
def test_frozen_parameters_of_a_quantized_model_change_nothing(dtype: torch.dtype) -> None:
    frozen = nn.Parameter(torch.ones(3, 2).to(dtype), requires_grad=False)

    def beside_frozen(params: list[nn.Parameter], lr: float) -> AdamW:
        return AdamW([{"params": [frozen, *params]}], lr=lr)

    assert measured_peaks(beside_frozen, steps=4) == measured_peaks(AdamW, steps=4)
    assert torch.equal(frozen.float(), torch.ones(3, 2))


def test_it_is_that_of_parabolic_adam() -> None:
    weight, loss_of = steep_problem()
    optimizer = ParabolicAdam([weight], total_steps=TOTAL_STEPS)
    loss_of().backward()
    optimizer.step(evaluate=loss_of, loss=loss_of())
    assert measured_peaks(AdamW) == pytest.approx([optimizer.param_groups[0]["least_peak"]], rel=1e-3)


def test_of_groups_with_different_rates_the_mean_is_at_least_that() -> None:
    weight, loss_of = steep_problem()
    others = [nn.Parameter(weight.detach().clone()) for _ in range(4)]
    optimizer = Adam([{"params": [weight], "lr": 1e-3}, {"params": others, "lr": 1e-6}])
    found = RateMeasurement(optimizer, [1.0, 1e-3], TOTAL_STEPS)

    def loss_of_all() -> Tensor:
        return loss_of() + torch.stack([(other - other.detach()).sum() for other in others]).sum()

    loss = loss_of_all()
    loss.backward()
    found.measure(loss, loss_of_all)
    signs = (SHAPE[0] * SHAPE[1]) ** 0.5
    assert found.peak * (1 + 4e-3) / 5 == pytest.approx(hundredth_of_whole_change(signs), rel=0.01)


def test_a_direction_of_unequal_entries_has_no_least_peak() -> None:
    peaks = measured_peaks(SGD)
    length = np.linalg.norm(np.random.default_rng(0).random(SHAPE))
    assert 0 < peaks[0] < 1e-3 * hundredth_of_whole_change(float(length))


class GrowingSigns(Optimizer):
    """Steps by the signs of the gradient, from the third one on three times as long."""

    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, {"lr": lr, "steps": 0})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        (group,) = self.param_groups
        group["steps"] += 1
        for p in group["params"]:
            p.sub_(p.grad.sign(), alpha=group["lr"] * (3 if group["steps"] > 2 else 1))


def test_it_lasts_where_longer_steps_have_the_rate_measured_anew_and_where_a_run_goes_on() -> None:
    peaks = measured_peaks(GrowingSigns, steps=6)
    assert peaks == pytest.approx([peaks[0]] * 6)
    assert measured_peaks(GrowingSigns, steps=6, resumed_at=2) == peaks


@pytest.mark.parametrize("level", [-5.0, 0.0])
def test_where_the_loss_is_not_positive_the_parabola_counts_alone(level: float) -> None:
    weight = nn.Parameter(torch.zeros(20))

    def loss_of() -> Tensor:
        return level + weight.sum() + 2 * weight.square().sum()

    loss_of().backward()
    found = RateMeasurement(SGD([weight], lr=1e-3), [1.0], 80)
    found.measure(loss_of(), loss_of)
    # The share of the way in so short a run, the agreement expected at first, and the minimiser.
    assert found.peak == pytest.approx(13 / 80 * 0.15 / 4, rel=1e-4)


def test_a_batch_without_a_finite_trial_says_nothing_about_the_distance() -> None:
    weight = nn.Parameter(torch.linspace(1, 2, 6))

    def loss_of() -> Tensor:
        return weight.square().sum()

    found = RateMeasurement(SGD([weight], lr=1e-3), [1.0], 80)
    loss = loss_of()
    loss.backward()
    found.measure(loss, lambda: torch.tensor(torch.nan))
    assert found.searches == 0
    found.measure(loss, loss_of)
    other = RateMeasurement(SGD([weight], lr=1e-3), [1.0], 80)
    other.measure(loss, loss_of)
    assert found.peak == pytest.approx(other.peak, rel=0.5)
