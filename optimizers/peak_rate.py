"""A peak learning rate from measurements: a loss, its slope and its curvature along the steps of an optimizer.

`measure_parabola` measures the curvature of a step. `PeakRate` makes a learning rate of what several steps have
measured, and knows neither parameters nor an optimizer. docs/parabolic_adam.md has the derivation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class PeakRateState:
    """What a `PeakRate` has measured so far: plain numbers and one tensor, so that it can be saved as it is.

    Args:
        steps: The number of the present step, from 1.
        measured_from: How many steps were made before the measurement began.
        searched_at: The step of the last search, counted from `measured_from`; 0 before the first one.
        slope_sums: The weighted sums over batches of the slope that the expected loss should have, and of the slope
            measured, shape (2,), each scaled by the size of the batch's slope; on the device of the slopes.
        agreement: The gradient agreement :math:`r` at the last search.
        log_distance: The weighted mean of the logarithm of the distance to the minimiser along the step.
        distance_weight: The sum of the weights in that mean.
        minimiser: The distance to the minimiser of the expected loss that is in force: agreement times distance, by
            default the largest so far.
        least_peak: What the peak learning rate of a long run is at least, whatever has been measured; in a short run it
            is larger, as the share :math:`q` is. 0 by default.
    """

    steps: int = 0
    measured_from: int = 0
    searched_at: int = 0
    slope_sums: Tensor = field(default_factory=lambda: torch.zeros(2))
    agreement: float = 0.0
    log_distance: float = 0.0
    distance_weight: float = 0.0
    minimiser: float = 0.0
    least_peak: float = 0.0

    @property
    def age(self) -> int:
        """The number of the present step, counted from where the measurement began."""
        return self.steps - self.measured_from

    @property
    def distance(self) -> float:
        """The geometric mean of the distances to the minimiser along the step, :math:`\\mu`."""
        return math.exp(self.log_distance)


@dataclass(frozen=True)
class PeakRate:
    r"""An estimator of the peak learning rate of a run, from measurements in some of its steps.

    With :math:`f_k` the loss of a batch, :math:`s_k` its slope along the step (the inner product of gradient and
    direction) and :math:`a_k` its curvature there, the estimate is

    .. math:: q \, \max_k r_k \mu_k, \qquad \mu_k = \exp \overline{\log \sqrt{2 f_k / a_k}} .

    :math:`\sqrt{2 f / a}` is the geometric mean of the parabola's minimiser :math:`s / a` and of Polyak's step
    :math:`2 f / s`: the slope, the noisiest of the three numbers, cancels out. The gradient agreement :math:`r` is the
    share of the slope that the earlier gradients in the direction explain. In the means a batch counts by the number of
    its step, which favours the later ones, a search moreover by the number of steps since the one before.

    The state is explicit: `begin` makes one; in each step count `state.steps` up, then `add_slopes` where
    `splits_slope` says so, and `update` where `is_due` says so.

    Args:
        peak_fraction: :math:`q`. Steps all the way to the minimiser gain most now, but leave noise to later steps.
        shortest_run: A run of T steps goes a share of `shortest_run` / T at least: it has no time for small steps.
        largest_fraction: The largest share that a short run goes, unless `peak_fraction` is larger.
        prior_agreement: The agreement that is expected before anything is measured.
        prior_batches: As how many batches that counts: as many as Adam's momentum remembers. A single batch says little
            about the agreement, and in small batches it is smaller than the noise of its measurement.
        least_agreement: The agreement where earlier directions do not descend on new batches, so that the run goes on.
        measured_share: The share of the run in which the rate is measured. Later the distance shrinks with what is left
            to learn, which the schedule takes care of.
        measured_steps: For how many steps it is measured at least, in short runs and when it is measured anew.
        longest_interval: After how many steps the next search comes at the latest. A search in step k is followed by
            one k / 2 steps later: curvature changes fast at first and slowly afterwards.
        all_split: In how many of the first steps the slope is split, which costs a pass over gradients and moments.
        split_every: In every how many of the later steps.
        probe_share: The share of the expected minimiser that a search probes at: near enough for the parabola to fit,
            far enough for the curvature to show beyond rounding.

    Example:
        >>> estimator = PeakRate()
        >>> state = estimator.begin()
        >>> state.steps += 1
        >>> round(estimator.update(state, loss=0.5, slope=1.0, curvature=100.0), 6)
        0.0018
    """

    peak_fraction: float = 0.12
    shortest_run: int = 13
    largest_fraction: float = 0.5
    prior_agreement: float = 0.15
    prior_batches: float = 10.0
    least_agreement: float = 0.02
    measured_share: float = 0.5
    measured_steps: int = 20
    longest_interval: int = 40
    all_split: int = 40
    split_every: int = 4
    probe_share: float = 0.2

    def begin(self, steps: int = 0, log_distance: float = 0.0) -> PeakRateState:
        """Return a state without measurements.

        Args:
            steps: How many steps of the run were made before.
            log_distance: Where the first search probes from, where something is known.
        """
        return PeakRateState(steps, steps, agreement=self.prior_agreement, log_distance=log_distance)

    def is_measuring(self, state: PeakRateState, progress: float | None = None) -> bool:
        """Return whether the present step belongs to the measured part of the run.

        Args:
            state: The state, `state.steps` being the present step.
            progress: The share of the run that is done; None where the length of the run is not known, which is then
                measured throughout.
        """
        return state.age <= self.measured_steps or progress is None or progress <= self.measured_share

    def is_due(self, state: PeakRateState, progress: float | None = None) -> bool:
        """Return whether to search for the curvature, and call `update`, in the present step."""
        if not state.searched_at:
            return True
        interval = min(max(1, state.searched_at // 2), self.longest_interval)
        return self.is_measuring(state, progress) and state.age - state.searched_at >= interval

    def splits_slope(self, state: PeakRateState, progress: float | None = None) -> bool:
        """Return whether to call `add_slopes` in the present step; a step that is due does in any case."""
        often = state.age <= self.all_split or state.steps % self.split_every == 0
        return often and self.is_measuring(state, progress)

    def probe(self, state: PeakRateState) -> float:
        """Return the step size to probe the loss at."""
        return self.probe_share * state.distance

    def add_slopes(
        self, state: PeakRateState, expected: Tensor | float, earlier: Tensor | float, present: Tensor | float
    ) -> None:
        """Add a batch to the measurement of the agreement, without waiting for a device.

        The batch is scaled to a slope of about 1: slopes go with the square of the gradient, which some batches have a
        hundred times larger than others.

        Args:
            state: The state; its `slope_sums` are replaced.
            expected: `earlier` as if all of the direction were made of earlier gradients.
            earlier: The slope along what the earlier gradients give the direction; it meets the batch for the first
                time, and is on average that of the expected loss.
            present: The slope along what the batch's own gradient gives the direction; it descends on its batch
                whatever that says about others.
        """
        expected, earlier, present = (torch.as_tensor(slope) for slope in (expected, earlier, present))
        self._add(state, expected, earlier + present, earlier.abs() + present)

    def add_agreement(self, state: PeakRateState, earlier: Tensor | float, present: Tensor | float) -> None:
        """Add a batch to the measurement of the agreement where a direction cannot be split by the age of gradients.

        Args:
            state: The state; its `slope_sums` are replaced.
            earlier: The slope along the direction of the step before, which meets the batch for the first time.
            present: The slope along the present direction, which the batch's own gradient has helped to make.
        """
        earlier, present = torch.as_tensor(earlier), torch.as_tensor(present)
        self._add(state, earlier, present, earlier.abs() + present.abs())

    @staticmethod
    def _add(state: PeakRateState, expected: Tensor, measured: Tensor, size: Tensor) -> None:
        scaled = torch.stack([expected, measured]) / size
        # A gradient of zero tells nothing.
        scaled = torch.nan_to_num(scaled, 0.0, 0.0, 0.0)
        # A state that was loaded is wherever it was loaded to.
        state.slope_sums = state.slope_sums.to(scaled.device) + state.age * scaled

    def update(
        self,
        state: PeakRateState,
        loss: float,
        slope: float,
        curvature: float | None,
        *,
        total_steps: float | None = None,
        keeps_largest: bool = True,
        slope_sums: Tensor | None = None,
    ) -> float:
        """Take in a search, and return the peak learning rate.

        Args:
            state: The state; changed in place.
            loss: The loss of the batch. Where it is not positive, the parabola's minimiser counts alone.
            slope: The slope along the step.
            curvature: The curvature along the step; None where none was measured (the direction leads uphill), which
                says nothing about the distance to the minimiser.
            total_steps: The number of steps of the run, where it is known.
            keeps_largest: Whether the estimate never falls, for runs with a schedule that falls by itself.
            slope_sums: A copy of `state.slope_sums` on the CPU, where reading the original would wait for a device.
        """
        sums = (state.slope_sums if slope_sums is None else slope_sums).tolist()
        expected = sums[0] / state.age + self.prior_batches * self.prior_agreement
        measured = sums[1] / state.age + self.prior_batches
        # Directions that lead uphill on more batches than the prior counts as would turn the quotient's sign.
        if measured > 0:
            state.agreement = min(max(self.least_agreement, expected / measured), 1.0)
        if curvature is not None:
            distance = math.sqrt(2 * loss / curvature) if loss > 0 else slope / curvature
            weight = state.age * (state.age - state.searched_at)
            state.distance_weight += weight
            state.log_distance += (math.log(distance) - state.log_distance) * weight / state.distance_weight
        state.searched_at = state.age
        minimiser = state.agreement * state.distance
        state.minimiser = max(state.minimiser, minimiser) if keeps_largest else minimiser
        return self.peak(state, total_steps)

    def share(self, total_steps: float | None = None) -> float:
        """Return the share of the way to the minimiser of the expected loss that the peak is in a run this long."""
        of_short_run = self.shortest_run / total_steps if total_steps else 0.0
        return max(self.peak_fraction, min(self.largest_fraction, of_short_run))

    def peak(self, state: PeakRateState, total_steps: float | None = None) -> float:
        """Return the peak learning rate by what has been measured so far; the least one before the first search."""
        return self.share(total_steps) * max(state.least_peak / self.peak_fraction, state.minimiser)
