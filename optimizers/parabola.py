"""A step size from a parabola: the loss and its slope at the start, and the loss at one point further along."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor

from optimizers.armijo import SearchResult
from optimizers.scalars import read_together

# How many times the expected step size a search probes at: far enough for the curvature to show beyond rounding.
PROBE = 2.0
# An answer closer to the start than this share of the probe is an extrapolation across the parabola: probe again there.
NEAREST = 1 / 16


def parabola_search(
    loss_at: Callable[[float], Tensor | float],
    loss_before: Tensor | float,
    slope: Tensor | float,
    *,
    probe: float,
    c: float,
    max_trials: int = 10,
    min_step_size: float = 0.0,
    max_step_size: float = math.inf,
    relative_tolerance: float = 1e-6,
) -> SearchResult:
    r"""Find the largest step size that Armijo's condition accepts on a parabola through three numbers.

    With :math:`f_0` the loss at the start, :math:`s > 0` the slope (minus the derivative there) and :math:`f(p)` the
    loss at the probe :math:`p`,

    .. math:: a = \frac{2 (f(p) - f_0 + s p)}{p^2}, \qquad
        f_0 - \left(f_0 - s \eta + \frac{a}{2} \eta^2\right) \ge c \, \eta \, s
        \iff \eta \le \frac{2 (1 - c) s}{a} .

    The answer is at most the probe itself, which is also the answer where the loss shows no curvature beyond rounding.
    Where it is less than a sixteenth of the probe, or the loss at the probe is not finite, the next probe is nearer.

    The search fails, and asks to keep the step size, where the start is not finite or the slope is not positive. It
    fails where the trials run out, and then the next search should go on from the last step size tried.

    Args:
        loss_at: Called with a step size, returns the loss there.
        loss_before: The loss at step size 0.
        slope: Minus the derivative of the loss along the line at 0; the entries of a vector are added up.
        probe: The first step size to try.
        c: The share of the decrease that the slope promises which a step has to deliver, in (0, 1).
        max_trials: The largest number of calls of `loss_at`, at least 1.
        min_step_size: No smaller step size is tried.
        max_step_size: No larger step size is tried.
        relative_tolerance: Losses that differ by less than this share of the starting loss count as equal.

    Returns:
        What the search found; its `loss` is that of the last trial, which is not at the step size found.

    Example:
        >>> parabola_search(lambda eta: (1 - eta) ** 2, 1.0, 2.0, probe=0.5, c=0.9).step_size
        0.2
    """
    eta = min(max(probe, min_step_size), max_step_size)
    f0 = math.nan
    slopes: tuple[float, ...] = ()
    for trial in range(1, max_trials + 1):
        if trial == 1:
            f0, loss, *read = read_together(loss_before, loss_at(eta), slope)
            slopes = tuple(read)
        else:
            (loss,) = read_together(loss_at(eta))
        steepness = math.fsum(slopes) if all(map(math.isfinite, slopes)) else math.nan
        if not (math.isfinite(f0) and steepness > 0):
            return SearchResult(probe, f0, False, trial, trial - 1, f0, slopes)
        bend = loss - f0 + steepness * eta
        if not math.isfinite(loss):
            found = 0.0
        elif bend <= relative_tolerance * abs(f0):
            found = eta
        else:
            found = min(eta, (1 - c) * steepness * eta**2 / bend)
        if found >= NEAREST * eta:
            return SearchResult(max(found, min_step_size), loss, True, trial, trial - 1, f0, slopes)
        eta = max(PROBE * found, NEAREST**2 * eta)
        if eta < min_step_size:
            break
    return SearchResult(eta, f0, False, trial, trial, f0, slopes)
