"""The rules for when a unit searches, alone, against closed forms and weighted means by NumPy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizers import Drift, Ratio


def searched(rule: Drift | Ratio, step_sizes: list[float], shrink: float = 0.8) -> dict[str, Any]:
    """The group of a unit that has searched in every step and found these step sizes."""
    group: dict[str, Any] = {"searches": 0, "shrink": shrink, **rule.memory()}
    for step_size in step_sizes:
        group |= {"lr": step_size, "searches": group["searches"] + 1}
        group |= rule.after_search(group, 1)
    return group


@given(
    drift=st.floats(0.001, 2.0),
    sign=st.sampled_from([-1, 1]),
    steps=st.integers(10, 200),
    shrink=st.floats(0.3, 0.95),
    longest=st.integers(2, 10),
)
def test_a_steady_drift_is_read_off_exactly(drift: float, sign: int, steps: int, shrink: float, longest: int) -> None:
    """Averages of a straight line differ by its slope times the difference of their ages, however old they are."""
    rule = Drift(max_interval=longest)
    group = searched(rule, [math.exp(sign * drift * step) for step in range(steps)], shrink)
    assert rule.interval(group) == pytest.approx(min(longest, -math.log(shrink) / drift), rel=1e-6)


@given(logarithms=st.lists(st.floats(-2, 2), min_size=10, max_size=60))
def test_the_ratio_is_that_of_two_weighted_means(logarithms: list[float]) -> None:
    rule, step_sizes = Ratio(), np.exp(logarithms)
    ages = np.arange(len(step_sizes))[::-1]
    fast, slow = (np.average(step_sizes, weights=weight**ages) for weight in (0.9, 0.99))
    excess = max(fast / slow, slow / fast) - 1
    expected = 10.0 if excess < 0.1 else 1 / excess
    assert rule.interval(searched(rule, list(step_sizes))) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    "rule", [Drift(), Ratio(), Drift(max_interval=3), Drift(max_interval=1), Ratio(max_interval=1)]
)
def test_the_first_searches_come_in_a_row(rule: Drift | Ratio) -> None:
    for searches in range(rule.max_interval + 1):
        interval = rule.interval(searched(rule, [0.1] * searches))
        assert interval == (1 if searches < rule.max_interval else rule.max_interval)


def test_a_step_size_in_force_for_several_steps_counts_for_each_of_them() -> None:
    rule = Drift()
    group = searched(rule, [0.1])
    group["lr"] = 0.2
    several = group | rule.after_search(group, 3)
    for _ in range(3):
        group |= rule.after_search(group, 1)
    assert several == pytest.approx(group)


@pytest.mark.parametrize("rule", [Drift, Ratio])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_interval": 0}, "max_interval: 0 is not allowed; an integer, at least 1"),
        ({"fast_weight": 0.99}, "fast_weight and slow_weight"),
        ({"fast_weight": 0.0}, "fast_weight and slow_weight"),
        ({"slow_weight": 1.0}, "fast_weight and slow_weight"),
    ],
)
def test_arguments_out_of_range_are_refused(rule: type[Drift | Ratio], arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rule(**arguments)


def test_a_search_without_a_resolution_does_not_go_with_drift() -> None:
    with pytest.raises(ValueError, match="goes with a search that has an option `shrink`"):
        Drift().interval({"searches": 0, **Drift().memory()})
