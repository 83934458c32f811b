"""The search within an interval, against SciPy's bounded minimisation."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from optimizers import search_interval


@settings(max_examples=200)
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
    assert all(0 <= position <= 1 for position, _ in found.trials)
    known = search_interval(lambda x: (x - 0.4) ** 2, 1.0, 0.2, 0.0, 1.0, start_value=math.nan)
    assert known.position == pytest.approx(0.4, abs=0.05)
    assert math.isinf(search_interval(lambda x: math.nan, 1.0, 0.2, 0.0, 1.0, max_trials=5).value)
    assert len(search_interval(lambda x: x**2, 1.0, 0.2, 0.0, 1.0, max_trials=3).trials) == 3
    with pytest.raises(ValueError, match="start"):
        search_interval(abs, 2.0, 0.2, 0.0, 1.0)


@pytest.mark.parametrize(
    ("left", "right"), [(lambda d: d, lambda d: 50 * d), (lambda d: 0.01 * d**2, lambda d: 1e6 * d**2)]
)
def test_a_minimum_far_from_any_parabola_is_found_by_the_golden_section(left: Callable, right: Callable) -> None:
    """Parabolas alone creep along the flatter side: 60 trials and an error of 0.04, or a stop 0.19 away."""

    def value_at(x: float) -> float:
        return right(x - 0.37) if x > 0.37 else left(0.37 - x)

    found = search_interval(value_at, 1.0, 0.2, 0.0, 1.0, tolerance=1e-3, max_trials=60)
    assert found.position == pytest.approx(0.37, abs=6e-3)
    assert len(found.trials) <= 20


@pytest.mark.parametrize("minimum", [-1.0, 0.37, 0.8, 2.0])
@pytest.mark.parametrize("start", [0.0, 0.5, 1.0])
def test_the_place_of_the_interval_does_not_matter(minimum: float, start: float) -> None:
    def trials(shift: float) -> list[float]:
        def value_at(x: float) -> float:
            distance = x - shift - minimum
            return 20 * distance if distance > 0 else -distance

        found = search_interval(value_at, start + shift, 0.25, shift, 1 + shift, tolerance=0.01)
        return [position - shift for position, _ in found.trials]

    assert trials(8.0) == pytest.approx(trials(0.0), abs=1e-6)
    assert trials(-8.0) == pytest.approx(trials(0.0), abs=1e-6)


def test_strides_grow_by_the_golden_ratio_until_the_end_of_the_interval() -> None:
    found = search_interval(lambda x: x, 100.0, 1.0, 0.0, 100.0, max_trials=30)
    positions = [position for position, _ in found.trials]
    downhill = positions[: positions.index(0.0) + 1]
    strides = [before - after for before, after in itertools.pairwise(downhill)]
    golden = (1 + math.sqrt(5)) / 2
    assert len(strides) > 6
    assert strides[:-1] == pytest.approx([golden**n for n in range(len(strides) - 1)])


def test_uphill_it_turns_round_with_the_same_stride() -> None:
    found = search_interval(lambda x: -x, 0.5, 0.1, 0.0, 10.0)
    golden = (1 + math.sqrt(5)) / 2
    assert [position for position, _ in found.trials[:4]] == pytest.approx([0.5, 0.4, 0.6, 0.6 + 0.1 * golden])


@pytest.mark.parametrize("start", [0.0, 0.5, 1.0])
def test_on_a_plateau_it_stays(start: float) -> None:
    """As the accuracy of few rows has them."""
    found = search_interval(lambda x: 1.0, start, 0.2, 0.0, 1.0, max_trials=30)
    assert found.position == start
    assert len(found.trials) < 30


@pytest.mark.parametrize(("start", "stride"), [(0.004, 0.2), (0.5, 0.496)])
def test_a_position_near_an_end_of_the_interval_counts_as_that_end(start: float, stride: float) -> None:
    found = search_interval(lambda x: (x - 0.1) ** 2, start, stride, 0.0, 1.0)
    assert found.position == pytest.approx(0.1, abs=0.01)


def test_parabolas_find_the_minimum_of_a_smooth_function_in_few_trials() -> None:
    found = search_interval(lambda x: math.exp(x) - 2 * x, 1.0, 0.2, 0.0, 1.0, tolerance=1e-6, max_trials=60)
    assert found.position == pytest.approx(math.log(2), abs=1e-5)
    assert len(found.trials) <= 15  # 26 by the golden section


@pytest.mark.parametrize(("start", "second"), [(2.0, 2.2), (3.0, 2.8), (2.1, 2.0)])
def test_the_second_trial_is_towards_the_lower_end_unless_it_starts_there(start: float, second: float) -> None:
    found = search_interval(lambda x: (x - 2.5) ** 2, start, 0.2, 2.0, 3.0)
    assert found.trials[1][0] == pytest.approx(second)


@pytest.mark.parametrize("wrong", [{"tolerance": 0.0}, {"stride": 0.0}, {"max_trials": 0}, {"low": 0.9, "start": 0.5}])
def test_arguments_without_a_search_are_refused(wrong: dict[str, float]) -> None:
    arguments: dict[str, Any] = {"start": 1.0, "stride": 0.2, "low": 0.0, "high": 1.0, **wrong}
    with pytest.raises(ValueError, match=next(reversed(wrong))):
        search_interval(abs, **arguments)
