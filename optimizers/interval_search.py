"""The minimum of a function of one number within an interval, from values alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from optimizers.checks import require, require_integer

# The share of an interval that the golden section keeps.
_GOLDEN = (math.sqrt(5) - 1) / 2
# By what each further step of the bracketing is longer.
_GROWTH = 1 + _GOLDEN


class IntervalResult(NamedTuple):
    """What a search within an interval has found.

    Args:
        position: Where the lowest value was found; the start, if no value was finite.
        value: The value there.
        trials: Every position tried, with its value, in the order of the trials.
    """

    position: float
    value: float
    trials: tuple[tuple[float, float], ...]


def search_interval(
    value_at: Callable[[float], float],
    start: float,
    stride: float,
    low: float,
    high: float,
    tolerance: float = 0.01,
    max_trials: int = 12,
    start_value: float | None = None,
) -> IntervalResult:
    r"""Search for a minimum downhill from a start, by bracketing and parabolas (Brent 1973, chapter 5).

    From the start it goes downhill, in strides that grow by the golden ratio, until the value rises or an end of the
    interval is reached. Between the two neighbours :math:`a < b` of the lowest position :math:`x` the next trial is at
    the minimum of the parabola through the three, which is

    .. math:: x - \frac{(x - a)^2 (f_x - f_b) - (x - b)^2 (f_x - f_a)}
        {2 \left[ (x - a)(f_x - f_b) - (x - b)(f_x - f_a) \right]} ,

    or, where that is undefined or the bracket has not halved in two trials, at the golden section of the wider side.
    It ends where the next trial would be nearer than `tolerance` to a position tried. A value that is not finite counts
    as infinitely high.

    Args:
        value_at: Called with a position, returns the value there.
        start: The first position.
        stride: The distance of the second position, tried towards `low` first.
        low: The lower end of the interval, which may be tried.
        high: The upper end.
        tolerance: How near to one another two trials may be.
        max_trials: The largest number of calls of `value_at`, at least 1.
        start_value: The value at the start, where it is known.

    Example:
        >>> round(search_interval(lambda x: (x - 0.7) ** 2, 1.0, 0.2, 0.0, 1.0).position, 6)
        0.7
    """
    require(low <= start <= high, "start", start, f"from {low} to {high}")
    require(stride > 0 and tolerance > 0, "stride and tolerance", (stride, tolerance), "above 0")
    require_integer("max_trials", max_trials, 1)
    tried: dict[float, float] = {} if start_value is None else {start: _finite(start_value)}
    trials: list[tuple[float, float]] = []

    def attempt(position: float) -> float:
        value = float(value_at(position))
        trials.append((position, value))
        tried[position] = _finite(value)
        return tried[position]

    def lowest() -> float:
        best = min(tried, key=tried.__getitem__)
        return best if math.isfinite(tried[best]) else list(tried)[-1]  # on, to where values are finite

    if start not in tried:
        attempt(start)
    direction = -1.0 if start - low >= tolerance else 1.0
    widths: list[float] = []
    while len(trials) < max_trials:
        best = lowest()
        position = _outward(tried, start, best, direction, stride, (low, high), tolerance)
        if position is None:
            below, above = _neighbours(tried, best)
            if below is None or above is None:
                side = best if below is None else below, best if above is None else above
                position = _golden(*side, best)  # at an end of the interval
            else:
                widths.append(above - below)
                is_slow = len(widths) > 2 and widths[-1] > 0.5 * widths[-3]
                vertex = None if is_slow else _vertex(tried, below, best, above)
                position = _golden(below, above, best) if vertex is None else vertex
        if min(abs(position - each) for each in tried) < tolerance:
            break
        attempt(position)
    best = min(tried, key=tried.__getitem__)
    return IntervalResult(best, tried[best], tuple(trials))


def _outward(
    tried: dict[float, float],
    start: float,
    best: float,
    direction: float,
    stride: float,
    ends: tuple[float, float],
    tolerance: float,
) -> float | None:
    """Return the next position on the way downhill; None where the lowest one has neighbours, or is at an end."""
    below, above = _neighbours(tried, best)
    if len(tried) == 1:
        return min(max(start + direction * stride, ends[0]), ends[1])
    if below is not None and above is not None:
        return None
    inner, sign, end = (above, -1.0, ends[0]) if below is None else (below, 1.0, ends[1])
    if abs(end - best) < tolerance or inner is None:
        return None
    width = _GROWTH * abs(best - inner) if best != start else stride
    return min(max(best + sign * width, ends[0]), ends[1])


def _neighbours(tried: dict[float, float], position: float) -> tuple[float | None, float | None]:
    """Return the nearest positions below and above one."""
    below = max((each for each in tried if each < position), default=None)
    return below, min((each for each in tried if each > position), default=None)


def _vertex(tried: dict[float, float], below: float, best: float, above: float) -> float | None:
    """Return where the parabola through three positions is lowest, or None where it has no minimum."""
    down, up = best - below, best - above
    rise, other = tried[best] - tried[above], tried[best] - tried[below]
    divisor = 2 * (down * rise - up * other)
    position = best - (down**2 * rise - up**2 * other) / divisor if divisor else math.nan
    return position if below < position < above else None


def _golden(below: float, above: float, best: float) -> float:
    """Return the golden section of the wider side of a position."""
    far = below if best - below > above - best else above
    return best + (1 - _GOLDEN) * (far - best)


def _finite(value: float) -> float:
    return value if math.isfinite(value) else math.inf
