"""The curvature of a loss along a step, from one loss besides the start: that of a parabola."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from optimizers.scalars import read_together


class Parabola(NamedTuple):
    """What a search along a step has measured.

    Args:
        loss: The loss at the start.
        slope: Minus its derivative along the step, at the start.
        curvature: Its second derivative there; None where the search failed.
        probe: The last step size tried; after a failed search the one to try next.
        probed_loss: The loss at the last step size tried.
        trials: How many step sizes were tried.
        rejected: How many of them told nothing.
        is_finite: Whether the start, the slope and one trial at least were finite.
    """

    loss: float
    slope: float
    curvature: float | None
    probe: float
    probed_loss: float
    trials: int
    rejected: int
    is_finite: bool = True


# The next probe is at this share of the minimiser found, as `PeakRate.probe_share`.
_NEXT_SHARE = 0.2
# How many probes away the minimiser may be found: nearer, the parabola says little about what is between the start and
# the probe; farther, it would be an extrapolation, and there the curvature may be rounding alone.
_NEAREST, _FARTHEST = 0.625, 10.0
# A probe comes nearer by this factor at most.
_STRIDE = 1 / 256
# The bounds of a probe.
LEAST_PROBE, LARGEST_PROBE = 1e-10, 10.0


def measure_parabola(
    loss_at: Callable[[float], Tensor | float],
    loss: Tensor | float,
    slope: Tensor | float,
    probe: float,
    max_trials: int = 10,
    relative_tolerance: float = 1e-6,
) -> Parabola:
    r"""Measure the curvature of a loss along a step, as that of the parabola through three numbers.

    With :math:`f` the loss at the start, :math:`s > 0` the slope and :math:`f(p)` the loss at the probe :math:`p`,

    .. math:: a = \frac{2 (f(p) - f + s p)}{p^2} .

    The minimiser :math:`s / a` is at most ten probes away, which is also the answer where the loss shows no curvature
    beyond rounding. Where it is nearer than 5/8 of the probe, or the loss at the probe is not finite, the next probe is
    nearer. The search fails where the start is not finite, the slope not positive, or the trials run out.

    Args:
        loss_at: Called with a step size, returns the loss there. Tensors are read once per trial.
        loss: The loss at step size 0.
        slope: Minus the derivative of the loss along the step at 0; the entries of a vector are added up.
        probe: The first step size to try.
        max_trials: The largest number of calls of `loss_at`, at least 1.
        relative_tolerance: Losses that differ by less than this share of the starting loss count as equal.

    Example:
        >>> measure_parabola(lambda eta: (1 - eta) ** 2, 1.0, 2.0, probe=0.5).curvature
        2.0
    """
    start, steepness, any_finite = math.nan, math.nan, False
    probe = min(max(probe, LEAST_PROBE), LARGEST_PROBE)
    for trial in range(1, max_trials + 1):
        if trial == 1:
            start, probed, *slopes = read_together(loss, loss_at(probe), slope)
            steepness = math.fsum(slopes) if all(map(math.isfinite, slopes)) else math.nan
            if not (math.isfinite(start) and steepness > 0):
                is_finite = all(map(math.isfinite, (start, steepness, probed)))
                return Parabola(start, steepness, None, probe, probed, 1, 0, is_finite)
        else:
            (probed,) = read_together(loss_at(probe))
        any_finite = any_finite or math.isfinite(probed)
        bend = probed - start + steepness * probe
        if not math.isfinite(probed):
            minimiser = 0.0
        elif bend <= relative_tolerance * abs(start):
            minimiser = _FARTHEST * probe
        else:
            minimiser = min(_FARTHEST * probe, steepness * probe**2 / (2 * bend))
        if minimiser >= _NEAREST * probe:
            return Parabola(start, steepness, steepness / minimiser, probe, probed, trial, trial - 1)
        probe = max(_NEXT_SHARE * minimiser, _STRIDE * probe)
        if probe < LEAST_PROBE:
            break
    return Parabola(start, steepness, None, probe, probed, trial, trial, any_finite)
