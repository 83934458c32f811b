"""The search within an interval, against SciPy's bounded minimisation."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from optimizers import search_interval


@settings(max_examples=200, deadline=None)
@given(minimum=st.floats(-0.5, 1.5), bend=st.floats(-0.4, 0.4), height=st.floats(0.1, 100))
def test_the_minimum_is_scipys_within_the_tolerance(minimum: float, bend: float, height: float) -> None:
    def value_at(x: float) -> float:
        return height * (1 + (x - minimum) ** 2 * (1 + bend * (x - minimum)))

    found = search_interval(value_at, 1.0, 0.2, 0.0, 1.0, tolerance=0.005, max_trials=30)
    wanted = minimize_scalar(value_at, bounds=(0, 1), method="bounded")
    assert all(0 <= position <= 1 for position, _ in found.trials)
    assert found.value == min(value for _, value in found.trials)
    assert found.value <= wanted.fun + 2e-3 * height
    assert len(found.trials) <= 14


def test_values_that_are_not_finite_are_left_and_trials_are_bounded() -> None:
    found = search_interval(lambda x: math.nan if x > 0.7 else (x - 0.4) ** 2, 1.0, 0.2, 0.0, 1.0)
    assert found.position == pytest.approx(0.4, abs=0.05)
    assert math.isinf(search_interval(lambda x: math.nan, 1.0, 0.2, 0.0, 1.0, max_trials=5).value)
    assert len(search_interval(lambda x: x**2, 1.0, 0.2, 0.0, 1.0, max_trials=3).trials) == 3
    with pytest.raises(ValueError, match="start"):
        search_interval(abs, 2.0, 0.2, 0.0, 1.0)
