"""The Armijo backtracking search along a line; it knows nothing of directions, parameters or models."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from optimizers.scalars import read_together


@dataclass(frozen=True)
class SearchResult:
    """The outcome of one `armijo_search`.

    Args:
        step_size: The accepted step size; after a failed search, the one to keep for the next search.
        loss: The loss at the accepted step size; after a failed search, the loss at the start.
        accepted: Whether the condition held at `step_size`.
        trials: How many times `loss_at` was called.
        backtracks: How many of the trials were rejected.
        loss_before: The loss at the start, as a number.
        slopes: The slope, as a number; one per entry where a vector was given.
    """

    step_size: float
    loss: float
    accepted: bool
    trials: int
    backtracks: int
    loss_before: float
    slopes: tuple[float, ...]

    @property
    def slope(self) -> float:
        """The slope of the whole line: the sum over the entries of `slopes`."""
        return math.fsum(self.slopes) if all(map(math.isfinite, self.slopes)) else math.nan


def armijo_search(
    loss_at: Callable[[float], Tensor | float],
    loss_before: Tensor | float,
    slope: Tensor | float,
    *,
    step_size: float,
    c: float = 0.1,
    shrink: float = 0.9,
    bracket: float | None = None,
    patience: int = 0,
    max_trials: int = 30,
    min_step_size: float = 0.0,
    max_step_size: float = math.inf,
    relative_tolerance: float = 1e-6,
    smoothing: float = 0.0,
    past_decrease: float = 0.0,
    past_slope: float = 0.0,
) -> SearchResult:
    r"""Find a step size that decreases the loss sufficiently, by backtracking from `step_size`.

    With :math:`f_0` the loss at the start, :math:`f(\eta)` the loss at step size :math:`\eta` and :math:`s > 0` the
    slope (minus the derivative of :math:`f` at 0), a trial is accepted where Armijo's condition holds:

    .. math:: f_0 - f(\eta) + \epsilon |f_0| \ge c \, \eta \, s

    :math:`\epsilon` (`relative_tolerance`) forgives a difference that rounding alone explains. A non-finite trial is a
    rejection. With `smoothing` :math:`\beta > 0` both sides are exponential averages over searches, as in SaLSA
    (arXiv 2407.20650): :math:`f_0 - f(\eta)` becomes :math:`\beta h + (1 - \beta)(f_0 - f(\eta))` and :math:`s` becomes
    :math:`\beta \bar s + (1 - \beta) s`, with :math:`h` and :math:`\bar s` the averages so far.

    Each rejected trial multiplies the step size by `shrink`. With `bracket`, the search comes down by that coarser
    factor after the first `patience` rejections, until a trial is accepted, and then closes in, by bisection on a
    logarithmic scale, to within one `shrink` of the largest acceptable step size: a dozen trials over eight orders of
    magnitude.

    The search gives up, and asks to keep the step size that it started from, where the losses say nothing: a
    non-finite start, a slope that is not positive, or two trials in a row that differ from the start by rounding only
    (further trials could only come closer to it). It gives up where the trials or the step size run out, and then the
    next search should go on from the last step size tried.

    `loss_before` and `slope` may be tensors on any device: they are read together with the loss of the first trial, so
    that a search costs one synchronisation per trial and none besides.

    Args:
        loss_at: Called with a step size, returns the loss there.
        loss_before: The loss at step size 0.
        slope: Minus the derivative of the loss along the line at 0; the entries of a vector are added up.
        step_size: The first trial.
        c: The share of the decrease that the slope promises which a step has to deliver, in (0, 1).
        shrink: What a rejected step size is multiplied by, in (0, 1).
        bracket: The coarser factor to come down by, in (0, 1); None backtracks by `shrink` alone.
        patience: How many rejections by `shrink` come before the first one by `bracket`.
        max_trials: The largest number of calls of `loss_at`, at least 1.
        min_step_size: No smaller step size is tried.
        max_step_size: No larger step size is tried.
        relative_tolerance: Losses that differ by less than this share of the starting loss count as equal.
        smoothing: The weight of the past in both sides of the condition, in [0, 1); 0 is the plain condition.
        past_decrease: The smoothed decrease before this search.
        past_slope: The smoothed slope before this search.

    Returns:
        What the search found. The last call of `loss_at` need not have been at the accepted step size.

    Example:
        >>> armijo_search(lambda eta: (1 - eta) ** 2, 1.0, 2.0, step_size=4.0, c=0.5, shrink=0.5).step_size
        1.0
    """
    eta = min(max(step_size, min_step_size), max_step_size)
    f0 = steepness = math.nan
    slopes: tuple[float, ...] = ()
    best: tuple[float, float] | None = None  # the largest step size accepted so far, and its loss
    rejected = math.inf  # the smallest step size rejected so far
    backtracks = level = trials = 0

    def failed(keep: float) -> SearchResult:
        return SearchResult(keep, f0, False, trials, backtracks, f0, slopes)

    while trials < max_trials:
        if trials == 0:
            f0, loss, *read = read_together(loss_before, loss_at(eta), slope)
            slopes = tuple(read)
            steepness = smoothing * past_slope + (1 - smoothing) * (math.fsum(slopes) if _finite(*slopes) else math.nan)
        else:
            (loss,) = read_together(loss_at(eta))
        trials += 1
        if not (_finite(f0, steepness) and steepness > 0):
            return failed(step_size)

        rounding = relative_tolerance * abs(f0)
        decrease = smoothing * past_decrease + (1 - smoothing) * (f0 - loss)
        if math.isfinite(loss) and decrease + (1 - smoothing) * rounding >= c * eta * steepness:
            best = (eta, loss)
        else:
            rejected = eta
            backtracks += 1
            level = level + 1 if abs(f0 - loss) <= rounding else 0

        if best is not None:
            if bracket is None or rejected * shrink <= best[0] or math.isinf(rejected):
                break
            eta = math.sqrt(best[0] * rejected)
            continue
        if level == 2:
            return failed(step_size)
        eta *= shrink if bracket is None or backtracks <= patience else min(bracket, shrink)
        if eta < min_step_size:
            break

    if best is None:
        return failed(rejected)
    return SearchResult(best[0], best[1], True, trials, backtracks, f0, slopes)


def _finite(*values: float) -> bool:
    return all(map(math.isfinite, values))
