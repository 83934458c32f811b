"""The parabola's step size, on functions whose answers are known."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizers import ParabolaSearch
from tests.optimizers.line import Line


def parabola_search(loss_at, loss, slope, *, probe, **options):
    return ParabolaSearch(**({"min_step_size": 0.0, "max_step_size": math.inf} | options))(loss_at, loss, slope, probe)


@given(
    slope=st.floats(1e-3, 1e3),
    curvature=st.floats(1e-3, 1e3),
    c=st.floats(0.05, 0.99),
    start=st.floats(-10, 10),
    share=st.floats(0.5, 8),
)
def test_on_a_parabola_it_is_the_largest_step_size_that_the_condition_accepts(slope, curvature, c, start, share):
    largest = 2 * (1 - c) * slope / curvature
    line = Line(lambda eta: start - slope * eta + curvature * eta**2 / 2)
    result = parabola_search(line, start, slope, probe=share * largest, c=c, relative_tolerance=0.0)
    expected = min(largest, share * largest)
    assert result.accepted
    assert result.trials == 1
    # The bend is a difference of numbers as large as the start and the fall.
    scale = abs(start) + slope * largest * share
    error = 1e-14 * scale / (curvature * (share * largest) ** 2)
    assert result.step_size == pytest.approx(expected, rel=1e-9 + error)


def test_a_probe_far_too_long_is_followed_by_one_nearer():
    line = Line(lambda eta: (1 - 1e4 * eta) ** 2 if eta < 1e-2 else 7.0)
    result = parabola_search(line, 1.0, 2e4, probe=0.1, c=0.95)
    assert result.step_size == pytest.approx(1e-5)
    assert 2 <= result.trials <= 4
    assert line.calls == sorted(line.calls, reverse=True)


def test_losses_that_are_not_finite_bring_the_probe_nearer():
    line = Line(
        lambda eta: (1 - eta) ** 2 if eta < 0.5 else math.nan if eta < 1 else -math.inf if eta < 5 else math.inf
    )
    result = parabola_search(line, 1.0, 2.0, probe=10.0, c=0.9)
    assert result.accepted
    assert result.step_size == pytest.approx(min(0.2, line.calls[-1]))


@pytest.mark.parametrize("bend", [0.0, -0.5, 1e-9])
def test_without_curvature_the_probe_is_the_answer(bend):
    result = parabola_search(lambda eta: 3.0 - eta + bend * eta**2, 3.0, 1.0, probe=0.7, c=0.95)
    assert (result.step_size, result.trials, result.accepted) == (0.7, 1, True)


@pytest.mark.parametrize(
    ("start", "slope"), [(math.nan, 1.0), (math.inf, 1.0), (1.0, math.nan), (1.0, 0.0), (1.0, -2.0)]
)
def test_a_start_that_says_nothing_keeps_the_step_size(start, slope):
    result = parabola_search(lambda eta: 0.0, start, slope, probe=0.3, c=0.9)
    assert (result.accepted, result.step_size, result.trials) == (False, 0.3, 1)


def test_trials_are_bounded():
    line = Line(lambda eta: math.nan)
    result = parabola_search(line, 1.0, 1.0, probe=1.0, c=0.9, max_trials=3)
    assert not result.accepted
    assert len(line.calls) == result.trials == 3


def test_bounds_are_kept():
    assert parabola_search(lambda eta: 1 - eta, 1.0, 1.0, probe=5.0, c=0.9, max_step_size=2.0).step_size == 2.0
    steep = parabola_search(lambda eta: (1 - eta) ** 2, 1.0, 2.0, probe=1.0, c=0.9, min_step_size=0.5)
    assert steep.step_size == 0.5
