"""When a line search searches: in every step, or less often while the step size is stable."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from optimizers.checks import require, require_integer


class Cadence(Protocol):
    """The rule for when a unit searches: a frozen dataclass of its options, with three methods.

    The methods get the first param group of a unit. It holds every option and what is remembered of the unit
    (`UnitMemory`): `group["lr"]` is the step size in force, `group["searches"]` the number of searches that found one.
    `LineSearchOptimizer` also keeps in the groups, by name, what the rule remembers; all of it is saved with the state.
    """

    def memory(self) -> dict[str, Any]:
        """Return what the rule remembers of a unit before the unit's first search, by name."""

    def interval(self, group: Mapping[str, Any]) -> float | None:
        """Return how many steps may pass from one search of the unit to the next; None: every step may search."""

    def after_search(self, group: Mapping[str, Any], waited: int) -> dict[str, Any]:
        """Return the new memory, after a search that found `group["lr"]`, `waited` steps after the one before."""


@dataclass(frozen=True)
class EveryStep:
    """Search in every step."""

    def memory(self) -> dict[str, Any]:
        """Return an empty dict."""
        return {}

    def interval(self, group: Mapping[str, Any]) -> float | None:
        """Return None."""
        return None

    def after_search(self, group: Mapping[str, Any], waited: int) -> dict[str, Any]:
        """Return an empty dict."""
        return {}


@dataclass(frozen=True)
class _TwoAverages:
    """Base of the rules that compare a fast and a slow exponential average of what searches have found."""

    max_interval: int = 10
    fast_weight: float = 0.9
    slow_weight: float = 0.99

    def __post_init__(self) -> None:
        require_integer("max_interval", self.max_interval, 1)
        weights = (self.fast_weight, self.slow_weight)
        require(0 < weights[0] < weights[1] < 1, "fast_weight and slow_weight", weights, "in (0, 1), the second larger")

    def memory(self) -> dict[str, Any]:
        """Return the two averages, and how many values they are made of."""
        return {"average_fast": 0.0, "average_slow": 0.0, "averaged": 0}

    def _with(self, group: Mapping[str, Any], value: float, times: int) -> dict[str, Any]:
        """Return the memory with so many times a further value."""
        fast, slow = self.fast_weight**times, self.slow_weight**times
        return {
            "average_fast": fast * group["average_fast"] + (1 - fast) * value,
            "average_slow": slow * group["average_slow"] + (1 - slow) * value,
            "averaged": group["averaged"] + times,
        }

    def _corrected(self, group: Mapping[str, Any]) -> tuple[float, float]:
        """Return the two averages, corrected for their start at zero."""
        fast, slow = (weight ** group["averaged"] for weight in (self.fast_weight, self.slow_weight))
        return group["average_fast"] / (1 - fast), group["average_slow"] / (1 - slow)

    def _limited(self, allowed: float, change: float) -> float:
        """Return how many steps the allowed change takes at this change per step, `max_interval` at the most."""
        return min(float(self.max_interval), allowed / change) if change else float(self.max_interval)


@dataclass(frozen=True)
class Drift(_TwoAverages):
    r"""Search when the step size is expected to have moved by more than a search resolves.

    .. math:: L = \min\left(10, \frac{-\log \delta}{|d|}\right) \text{ steps after the last search, }
        d = \frac{\overline{\log \eta}_{0.9} - \overline{\log \eta}_{0.99}}{a_{0.99} - a_{0.9}}

    The drift :math:`d` per step is read off a fast and a slow exponential average of the logarithm of the step size
    over steps, both corrected for their start at zero, whose values are on average :math:`a_{0.9}` and
    :math:`a_{0.99}` steps old. :math:`\delta` is the option `shrink` of the search: this rule goes with a search that
    has one, such as `ArmijoSearch`. The first 10 searches come in a row.

    Args:
        max_interval: How many searches come in a row at first, and how many steps may pass between two later ones (10
            in the paper, arXiv 2407.20650).
        fast_weight: Weight of the past in the fast average (0.9 in the paper), less than `slow_weight`.
        slow_weight: Weight of the past in the slow average (0.99 in the paper), below 1.
    """

    def interval(self, group: Mapping[str, Any]) -> float | None:
        """Return how many steps may pass between two searches of the unit."""
        if "shrink" not in group:
            raise ValueError("the cadence Drift goes with a search that has an option `shrink`, such as ArmijoSearch")
        count = group["averaged"]
        if group["searches"] < self.max_interval or count < 2:  # two values make a drift
            return 1.0
        fast, slow = self._corrected(group)
        change = abs(fast - slow) / (_mean_age(self.slow_weight, count) - _mean_age(self.fast_weight, count))
        return self._limited(-math.log(group["shrink"]), change)

    def after_search(self, group: Mapping[str, Any], waited: int) -> dict[str, Any]:
        """Return the averages with the logarithm of the new step size, once for every step waited."""
        return self._with(group, math.log(group["lr"]), waited)


@dataclass(frozen=True)
class Ratio(_TwoAverages):
    r"""Search as the paper of SaLSA does (arXiv 2407.20650): as two averages of the step size over searches differ.

    .. math:: L = \min\left(10, \frac{1}{r - 1}\right) \text{ steps after the last search}

    :math:`r \ge 1` is the ratio of a fast and a slow exponential average of the step size over searches, both corrected
    for their start at zero. The first 10 searches come in a row.

    Args:
        max_interval: How many searches come in a row at first, and how many steps may pass between two later ones (10
            in the paper).
        fast_weight: Weight of the past in the fast average (0.9 in the paper), less than `slow_weight`.
        slow_weight: Weight of the past in the slow average (0.99 in the paper), below 1.
    """

    def interval(self, group: Mapping[str, Any]) -> float | None:
        """Return how many steps may pass between two searches of the unit."""
        if group["searches"] < self.max_interval or not group["averaged"]:
            return 1.0
        averages = self._corrected(group)
        return self._limited(1.0, max(averages) / min(averages) - 1)

    def after_search(self, group: Mapping[str, Any], waited: int) -> dict[str, Any]:
        """Return the averages with the new step size."""
        return self._with(group, group["lr"], 1)


def _mean_age(beta: float, count: int) -> float:
    """How old the values in an exponential average are, on average, after so many of them; the last one is 0 old."""
    return beta / (1 - beta) - count * beta**count / (1 - beta**count)
