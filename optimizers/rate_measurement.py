"""The measurement of a peak learning rate during the steps of any torch optimizer."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from optimizers.parabola import measure_parabola
from optimizers.peak_rate import PeakRate, PeakRateState
from optimizers.relative_change import LEAST_CHANGE, rate_of_even_change
from optimizers.scalars import gather, read_together
from optimizers.step_contract import Loss, as_loss
from optimizers.step_direction import NotMeasurableError, StepDirection, movable, parameters_of, wide_inner_product

# How much longer a direction is than all before where what was measured along those says nothing about it.
_LONGER = 2.0
# In so many searches the optimizer is asked whether it moves in proportion to its rate; one whose state remembers
# steps or positions does in the first step, and not in later ones.
_CHECKED = 3


class RateMeasurement:
    r"""Measures the peak learning rate of any torch optimizer that moves in proportion to its rate.

    As `ParabolicAdam` does, by the loss of a batch, its slope and its curvature along the optimizer's step:
    `PeakRate` says when, and makes a rate of what was measured. Two things differ, because nothing is known of the
    optimizer. The direction :math:`d_k` of a step is that of the step made, or of a step of a copy where it is needed
    before. And the gradient agreement :math:`r` is the slope of a batch along the direction of the step
    before, which meets it for the first time, by the slope along the step that the batch itself has helped to make:

    .. math:: r \approx \frac{\sum_k \langle g_k, d_{k-1} \rangle}{\sum_k \langle g_k, d_k \rangle}

    Where the first direction moves the entries of a matrix alike, as that of Adam does, the peak is at least a
    hundredth of the rate at which a step changes the typical matrix by its own size, and more in a short run, as
    ParabolicAdam's is. Of groups with different rates, the mean over the matrices is at least that.

    Rates are measured in units of Polyak's step :math:`2 f / \langle g_1, d_1 \rangle`, so that the scale of loss and
    gradients does not matter. A direction more than twice as long as all before has what was measured forgotten, and
    the rate measured anew.

    Args:
        optimizer: The optimizer; its `lr` is not changed here.
        weights: The groups' learning rates relative to one another, the largest being 1.
        total_steps: Optimizer steps of the run. None: unknown.
        peak_fraction: The share of the way to the minimiser of the expected loss that the peak is.
        measured_share: The share of the run in which the rate is measured; for 20 steps in any case.
        steps: How many steps of the run were made before.

    Attributes:
        peak: The peak learning rate measured so far, of the groups with weight 1; 0 before anything was measured.
        passes: How many times the loss was evaluated.
        searches: How many steps measured a curvature.

    Raises:
        NotMeasurableError: The optimizer does not move in proportion to its rate.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        weights: Sequence[float],
        total_steps: int | None,
        peak_fraction: float = 0.12,
        measured_share: float = 0.5,
        steps: int = 0,
    ) -> None:
        self._optimizer = optimizer
        self._weights = weights
        self._total_steps = total_steps
        self._estimator = PeakRate(peak_fraction, measured_share=measured_share)
        self._direction = StepDirection(optimizer, weights)
        self._state = self._estimator.begin(steps)
        self._unit = 0.0  # learning rate of Polyak's step in the first search
        self._earlier: list[Tensor] | None = None  # the direction of the step before
        self._held: list[Tensor | None] | None = None  # the gradients of a step that is about to be made
        self._longest = 0.0  # the length of the longest direction since the measurement began
        self.peak = 0.0
        self.passes = 0
        self.searches = 0

    @property
    def steps(self) -> int:
        """The number of steps of the run so far."""
        return self._state.steps

    @property
    def is_finished(self) -> bool:
        """Whether the next step is beyond the measured part of the run."""
        state = self._next(self._state)
        return not self._estimator.is_measuring(state, self._progress(state))

    @property
    def is_due(self) -> bool:
        """Whether the next step needs gradients as they are before clipping."""
        return self._is_due(self._next(self._state))

    @torch.no_grad()
    def measure(
        self, loss: Loss, evaluate: Callable[[], Any], gradients: Sequence[Tensor | None] | None = None
    ) -> None:
        """Take in a step that the optimizer is about to make, by the gradients in `.grad`; then `finish_step`.

        Args:
            loss: The loss that they belong to.
            evaluate: Computes the loss at whatever the parameters are, the same on all ranks.
            gradients: The gradients of the loss for each parameter, where those in `.grad` are clipped.
        """
        self._state.steps += 1
        if not (self._compares(self._state) or self._compares(self._next(self._state))):
            # Neither this step nor the next one, which would compare with it, needs the direction.
            self._earlier = None
            return
        if gradients is None:
            gradients = [p.grad for p in parameters_of(self._optimizer)]
        if not self._is_due(self._state) and self._direction.is_visible:
            # `finish_step` reads the direction off the step itself; some optimizers work on the gradients in place.
            self._held = [None if gradient is None else gradient.clone() for gradient in gradients]
            self._direction.before_step()
            return
        direction = self._direction.find()
        if self._is_longer():
            self._begin_anew(self._state.steps - 1)
            self._state.steps += 1
        due = self._is_due(self._state)
        slope = self._compare(direction, gradients)
        if due:
            self._search(as_loss(loss), slope, direction, evaluate)
        self._earlier = direction

    @torch.no_grad()
    def finish_step(self) -> None:
        """Take in the step that the optimizer has made since :meth:`measure`."""
        gradients, self._held = self._held, None
        if gradients is None:
            return
        direction = self._direction.after_step()
        if self._is_longer():
            self._begin_anew(self._state.steps)
        else:
            self._compare(direction, gradients)
        self._earlier = direction

    def _is_longer(self) -> bool:
        """Return whether the direction is so long that what was measured before is to be forgotten."""
        longest, length = self._longest, self._direction.length
        self._longest = max(longest, length)
        return length > _LONGER * longest > 0

    def _begin_anew(self, steps: int) -> None:
        least = self._state.least_peak
        self._state = replace(self._estimator.begin(steps, self._state.log_distance), least_peak=least)
        self._longest = self._direction.length

    def _compare(self, direction: list[Tensor], gradients: Sequence[Tensor | None]) -> Tensor:
        """Add the slope of a batch to the measurement of the agreement, and return it."""
        slope = _slope(direction, gradients)
        if self._earlier is not None:
            self._estimator.add_agreement(self._state, _slope(self._earlier, gradients).sum(), slope.sum())
        return slope

    def _search(self, loss: Loss, slope: Tensor, direction: list[Tensor], evaluate: Callable[[], Any]) -> None:
        """Measure the curvature along the direction, and update the peak."""
        if self.searches < _CHECKED and not self._direction.is_proportional(direction):
            raise NotMeasurableError(
                f"{type(self._optimizer).__name__} does not move in proportion to its learning rate, so that none can "
                "be measured for it; choose another optimizer"
            )
        state, estimator = self._state, self._estimator
        parameters = parameters_of(self._optimizer)
        if not self._unit:
            start, steepness = read_together(loss, slope.sum())
            if not (math.isfinite(start) and math.isfinite(steepness) and steepness > 0):
                return
            self._unit = 2 * abs(start) / steepness if start else 1.0
            groups = zip(self._optimizer.param_groups, self._weights, strict=True)
            weights = [weight for group, weight in groups for _ in movable(group)]
            state.least_peak = LEAST_CHANGE * rate_of_even_change(parameters, direction, weights) / self._unit
        unit = self._unit
        before = [p.detach().clone() for p in parameters]

        def loss_at(step: float) -> Loss:
            try:
                for p, x, d in zip(parameters, before, direction, strict=True):
                    p.copy_(x).sub_(d, alpha=step * unit)
                torch.clear_autocast_cache()  # it holds low-precision copies of weights that have moved
                return as_loss(evaluate())
            finally:
                for p, x in zip(parameters, before, strict=True):
                    p.copy_(x)
                torch.clear_autocast_cache()

        found = measure_parabola(loss_at, loss, slope * unit, estimator.probe(state))
        self.passes += found.trials
        if found.curvature is not None or (found.is_finite and self.searches):
            self.peak = unit * estimator.update(
                state, found.loss, found.slope, found.curvature, total_steps=self._total_steps
            )
            self.searches += 1
        elif found.is_finite:
            state.log_distance = math.log(found.probe / estimator.probe_share)

    def _is_due(self, state: PeakRateState) -> bool:
        return self._estimator.is_due(state, self._progress(state))

    def _compares(self, state: PeakRateState) -> bool:
        """Return whether a step adds to the measurement of the agreement, as one that is due does in any case."""
        return self._is_due(state) or self._estimator.splits_slope(state, self._progress(state))

    def _progress(self, state: PeakRateState) -> float:
        # A run without a known end is measured in its first steps alone.
        return state.steps / self._total_steps if self._total_steps else 1.0

    @staticmethod
    def _next(state: PeakRateState) -> PeakRateState:
        return replace(state, steps=state.steps + 1)

    def state_dict(self) -> dict[str, Any]:
        """Return what a run that goes on needs, the last direction included: plain numbers and tensors."""
        numbers = {name: getattr(self, name) for name in ("peak", "passes", "searches")}
        lasting = {"unit": self._unit, "earlier": self._earlier, "longest": self._longest}
        return {"estimator": vars(self._state).copy(), "direction": self._direction.state(), **lasting, **numbers}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state_dict` has returned."""
        self._state = PeakRateState(**state["estimator"])
        self._direction.load(state["direction"])
        self._unit, self._longest, earlier = state["unit"], state["longest"], state["earlier"]
        if earlier is not None:
            parameters = parameters_of(self._optimizer)
            earlier = [d.to(p) for d, p in zip(earlier, parameters, strict=True)]
        self._earlier = earlier
        self.peak, self.passes, self.searches = state["peak"], state["passes"], state["searches"]


def _slope(direction: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> Tensor:
    """Return the slope along a direction, a number for each parameter with a gradient."""
    return gather([wide_inner_product(g, d) for g, d in zip(gradients, direction, strict=True) if g is not None])
