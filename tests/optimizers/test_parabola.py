"""The curvature along a step, on functions whose curvature is known."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizers import measure_parabola
from tests.optimizers.line import Line


@given(
    slope=st.floats(1e-3, 1e3),
    curvature=st.floats(1e-3, 1e3),
    start=st.floats(-10, 10),
    share=st.floats(0.1, 1.59),  # from 1.6 on a nearer probe follows
)
def test_on_a_parabola_the_curvature_is_exact(slope, curvature, start, share):
    probe = min(share * slope / curvature, 10.0)
    found = measure_parabola(
        Line(lambda eta: start - slope * eta + curvature * eta**2 / 2), start, slope, probe, relative_tolerance=0.0
    )
    expected = max(curvature, slope / (10 * probe))
    # The bend is a difference of numbers as large as the start and the fall.
    error = 1e-14 * (abs(start) + slope * probe) / (curvature * probe**2)
    assert found.curvature == pytest.approx(expected, rel=1e-9 + error)
    assert (found.trials, found.rejected, found.probe) == (1, 0, probe)


def test_a_probe_far_too_long_is_followed_by_one_nearer():
    line = Line(lambda eta: (1 - 1e4 * eta) ** 2 if eta < 1e-2 else 7.0)
    found = measure_parabola(line, 1.0, 2e4, probe=0.1)
    assert found.curvature == pytest.approx(2e8)
    assert 2 <= found.trials <= 4
    assert line.calls == sorted(line.calls, reverse=True)


def test_losses_that_are_not_finite_bring_the_probe_nearer():
    line = Line(
        lambda eta: (1 - eta) ** 2 if eta < 0.5 else math.nan if eta < 1 else -math.inf if eta < 5 else math.inf
    )
    found = measure_parabola(line, 1.0, 2.0, probe=10.0)
    assert found.curvature == pytest.approx(max(2.0, 2.0 / (10 * line.calls[-1])))


@pytest.mark.parametrize("bend", [0.0, -0.5, 1e-9])
def test_without_curvature_the_minimiser_is_ten_probes_away(bend):
    found = measure_parabola(lambda eta: 3.0 - eta + bend * eta**2, 3.0, 1.0, probe=0.7)
    assert (1.0 / found.curvature, found.trials) == (pytest.approx(7.0), 1)


@pytest.mark.parametrize(
    ("start", "slope"), [(math.nan, 1.0), (math.inf, 1.0), (1.0, math.nan), (1.0, 0.0), (1.0, -2.0)]
)
def test_a_start_that_says_nothing_is_not_searched_further(start, slope):
    found = measure_parabola(lambda eta: 0.0, start, slope, probe=0.3)
    assert (found.curvature, found.probe, found.trials, found.rejected) == (None, 0.3, 1, 0)


def test_trials_are_bounded():
    line = Line(lambda eta: math.nan)
    found = measure_parabola(line, 1.0, 1.0, probe=1.0, max_trials=3)
    assert found.curvature is None
    assert len(line.calls) == found.trials == found.rejected == 3
    assert found.probe < line.calls[-1]


def test_probes_are_bounded():
    assert measure_parabola(lambda eta: 1 - eta, 1.0, 1.0, probe=50.0).probe == 10.0
    line = Line(lambda eta: math.inf)
    assert measure_parabola(line, 1.0, 2.0, probe=1.0, max_trials=100).curvature is None
    assert min(line.calls) >= 1e-10
