"""Searches for a step size along a line, independent of directions, parameters and models."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from torch import Tensor

from optimizers.checks import require, require_integer
from optimizers.scalars import read_together

LossAt = Callable[[float], Tensor | float]
# Why a search found no step size: the start or every trial was not finite, the slope was not positive, trials differed
# from the start by rounding alone, or all of them were rejected.
Failure = Literal["not finite", "no descent", "rounding", "rejected"]


@dataclass(frozen=True)
class SearchResult:
    """The outcome of a search.

    Args:
        step_size: The accepted step size; after a failed search, the one to keep for the next search.
        loss: The loss at the accepted step size; after a failed search, the loss at the start.
        accepted: Whether the condition held at `step_size`.
        trials: How many times `loss_at` was called.
        backtracks: How many of the trials were rejected.
        loss_before: The loss at the start, as a number.
        slopes: The slope, as a number; one per entry where a vector was given.
        failure: Why no step size was found; None where one was.
    """

    step_size: float
    loss: float
    accepted: bool
    trials: int
    backtracks: int
    loss_before: float
    slopes: tuple[float, ...]
    failure: Failure | None = None

    @property
    def slope(self) -> float:
        """The slope of the whole line: the sum over the entries of `slopes`."""
        return _sum(self.slopes)


class Past(NamedTuple):
    """What earlier searches found along lines like this one.

    Args:
        settled: Whether the search starts from a step size that a search found.
        decrease: Exponential average of the decrease of the loss over searches.
        slope: Exponential average of the slope over searches.
    """

    settled: bool = False
    decrease: float = 0.0
    slope: float = 0.0


NO_PAST = Past()


class Search(Protocol):
    """A search for a step size: a frozen dataclass of its options, which is called with a line.

    `LineSearchOptimizer` keeps the options in the param groups, by the names of the fields.
    """

    def __call__(
        self, loss_at: LossAt, loss: Tensor | float, slope: Tensor | float, start: float, past: Past = ...
    ) -> SearchResult:
        """Find a step size.

        Args:
            loss_at: Called with a step size, returns the loss there.
            loss: The loss at step size 0.
            slope: Minus the derivative of the loss along the line at 0; the entries of a vector are added up.
            start: The first step size to try.
            past: What earlier searches found.
        """


@dataclass(frozen=True)
class ArmijoSearch:
    r"""Backtracking to a step size that decreases the loss sufficiently: Armijo's condition.

    With :math:`f_0` the loss at the start, :math:`f(\eta)` the loss at step size :math:`\eta` and :math:`s > 0` the
    slope (minus the derivative of :math:`f` at 0), a trial is accepted where

    .. math:: f_0 - f(\eta) + \epsilon |f_0| \ge c \, \eta \, s .

    With :math:`\beta > 0` both sides are exponential averages over searches (SaLSA, arXiv 2407.20650):
    :math:`\beta h + (1 - \beta)(f_0 - f(\eta))` in place of the decrease and :math:`\beta \bar s + (1 - \beta) s` in
    place of the slope, with :math:`h` and :math:`\bar s` the averages so far, `past.decrease` and `past.slope`.

    A trial that is rejected, or whose loss is not finite, multiplies the step size by `shrink`; with `bracket` by that
    coarser factor, until a trial is accepted, and then the search closes in by bisection on a logarithmic scale, to
    within one `shrink` of the largest acceptable step size: a dozen trials over eight orders of magnitude.

    The search fails, and keeps the step size that it started from, where the losses give no information: a start that
    is not finite, a slope that is not positive, two trials in a row that differ from the start by rounding only, or no
    finite trial, from a step size that a search found or down to the smallest one. It fails where trials or step size
    run out, and then the next search should go on from the last step size tried.

    Args:
        c: :math:`c`, the share of the decrease predicted by the slope that a step has to reach, in (0, 1).
        shrink: What a rejected step size is multiplied by, in (0, 1).
        bracket: The coarser factor to come down by, in (0, 1); None backtracks by `shrink` alone.
        patience: How many rejections by `shrink` come before the first by `bracket`, if `past.settled`.
        max_trials: The largest number of calls of `loss_at`, at least 1.
        min_step_size: No smaller step size is tried.
        max_step_size: No larger step size is tried.
        relative_tolerance: :math:`\epsilon`; losses that differ by less than this share of :math:`f_0` count as equal.
        smoothing: :math:`\beta`, the weight of the past in both sides of the condition, in [0, 1).

    Example:
        >>> ArmijoSearch(c=0.5, shrink=0.5, bracket=None)(lambda eta: (1 - eta) ** 2, 1.0, 2.0, start=4.0).step_size
        1.0
    """

    c: float = 0.1
    shrink: float = 0.9
    bracket: float | None = 0.2
    patience: int = 3
    max_trials: int = 30
    min_step_size: float = 1e-10
    max_step_size: float = 10.0
    relative_tolerance: float = 1e-6
    smoothing: float = 0.0

    def __post_init__(self) -> None:
        bracket, smoothing = self.bracket, self.smoothing
        require(0 < self.c < 1, "c", self.c, "between 0 and 1")
        require(0 < self.shrink < 1, "shrink", self.shrink, "between 0 and 1")
        require(bracket is None or 0 < bracket < 1, "bracket", bracket, "between 0 and 1, or None")
        require_integer("patience", self.patience, 0)
        require(0 <= smoothing < 1, "smoothing", smoothing, "at least 0 and less than 1")
        low, high, tolerance = self.min_step_size, self.max_step_size, self.relative_tolerance
        require_integer("max_trials", self.max_trials, 1)
        require(0 <= low <= high, "min_step_size and max_step_size", (low, high), "at least 0, and in this order")
        require(tolerance >= 0, "relative_tolerance", tolerance, "at least 0")

    def __call__(
        self, loss_at: LossAt, loss: Tensor | float, slope: Tensor | float, start: float, past: Past = NO_PAST
    ) -> SearchResult:
        """Find a step size; the arguments are those of `Search`.

        `loss` and `slope` may be tensors on any device: they are read together with the loss of the first trial, so
        that a search costs one synchronisation per trial and none besides.

        Returns:
            What the search found. The last call of `loss_at` need not have been at the accepted step size.
        """
        eta = min(max(start, self.min_step_size), self.max_step_size)
        f0, first, *read = read_together(loss, loss_at(eta), slope)
        slopes = tuple(read)
        steepness = self.smoothing * past.slope + (1 - self.smoothing) * _sum(slopes)
        if not (math.isfinite(f0) and math.isfinite(steepness)):
            return SearchResult(start, f0, False, 1, 0, f0, slopes, "not finite")
        if steepness <= 0:
            return SearchResult(start, f0, False, 1, 0, f0, slopes, "no descent")

        trials = _Trials(self, loss_at, f0, steepness, past)
        trials.add(eta, first)
        smaller = self._come_down(trials, eta, self.patience if past.settled else 0)
        self._close_in(trials)
        if trials.accepted is not None:
            return SearchResult(*trials.accepted, True, trials.number, trials.backtracks, f0, slopes)
        why: Failure = "rounding" if trials.only_rounding else "rejected" if trials.any_finite else "not finite"
        keeps = why == "rounding" or (why == "not finite" and (past.settled or smaller < self.min_step_size))
        keep = start if keeps else trials.rejected
        return SearchResult(keep, f0, False, trials.number, trials.backtracks, f0, slopes, why)

    def _come_down(self, trials: _Trials, eta: float, patience: int) -> float:
        """Try smaller step sizes than a first one until a trial is accepted; return the last one, or the next.

        Args:
            trials: The trials so far: one, at `eta`.
            eta: The first step size.
            patience: How many rejections by `shrink` come before the first by `bracket`.
        """
        coarse = self.shrink if self.bracket is None else min(self.bracket, self.shrink)
        while trials.accepted is None and not trials.only_rounding:
            eta *= self.shrink if trials.backtracks <= patience else coarse
            if eta < self.min_step_size or trials.number == self.max_trials:
                break
            trials.make(eta)
        return eta

    def _close_in(self, trials: _Trials) -> None:
        """Bisect between what was accepted and what was rejected, where coming down by `bracket` has left a gap."""
        if trials.accepted is None or math.isinf(trials.rejected):
            return
        while trials.rejected * self.shrink > trials.accepted[0] and trials.number < self.max_trials:
            trials.make(math.sqrt(trials.accepted[0] * trials.rejected))


class _Trials:
    """The trials of one search by Armijo's condition, and what they have shown so far.

    Args:
        search: The options of the search.
        loss_at: Called with a step size, returns the loss there.
        start: The loss at step size 0.
        slope: What the condition compares with: the slope, averaged with that of earlier searches.
        past: What earlier searches found.

    Attributes:
        accepted: The largest step size accepted, and its loss; None where there is none.
        rejected: The smallest step size rejected; infinite where there is none.
        number: How many trials were made.
        backtracks: How many of them were rejected.
        any_finite: Whether the loss of one was finite.
    """

    def __init__(self, search: ArmijoSearch, loss_at: LossAt, start: float, slope: float, past: Past) -> None:
        self._search, self._loss_at, self._start, self._slope, self._past = search, loss_at, start, slope, past
        self._rounding = search.relative_tolerance * abs(start)
        self._level = 0  # how many of the last rejected trials differ from the start by rounding alone
        self.accepted: tuple[float, float] | None = None
        self.rejected = math.inf
        self.number = self.backtracks = 0
        self.any_finite = False

    @property
    def only_rounding(self) -> bool:
        """Whether the last two trials differ from the start by rounding alone: smaller ones would all the more."""
        return self._level == 2

    def make(self, eta: float) -> None:
        """Compute the loss at a step size, and add it."""
        (loss,) = read_together(self._loss_at(eta))
        self.add(eta, loss)

    def add(self, eta: float, loss: float) -> None:
        """Add the loss at a step size: above all that were accepted, and below all that were rejected."""
        self.number += 1
        self.any_finite = self.any_finite or math.isfinite(loss)
        if self._is_enough(eta, loss):
            self.accepted = (eta, loss)
        else:
            self.rejected = eta
            self.backtracks += 1
            self._level = self._level + 1 if abs(self._start - loss) <= self._rounding else 0

    def _is_enough(self, eta: float, loss: float) -> bool:
        share = 1 - self._search.smoothing
        decrease = self._search.smoothing * self._past.decrease + share * (self._start - loss)
        return math.isfinite(loss) and decrease + share * self._rounding >= self._search.c * eta * self._slope


def _sum(slopes: tuple[float, ...]) -> float:
    return math.fsum(slopes) if all(map(math.isfinite, slopes)) else math.nan
