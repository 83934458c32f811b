"""The search alone, on functions whose answers are known."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from optimizers import ArmijoSearch, Past
from tests.optimizers.line import Line

PLAIN = {"bracket": None, "min_step_size": 0.0, "max_step_size": math.inf}


def armijo_search(loss_at, loss, slope, *, step_size, past=None, **options):
    search = ArmijoSearch(**(PLAIN | options))
    return search(loss_at, loss, slope, step_size, *([past] if past else []))


def test_quadratic_accepts_the_first_step_size_below_the_known_bound():
    # f(η) = (1 - η)², f(0) = 1, slope 2: the condition 1 - f(η) >= 2cη holds exactly for η <= 2(1 - c).
    line = Line(lambda eta: (1 - eta) ** 2)
    result = armijo_search(line, 1.0, 2.0, step_size=8.0, c=0.25, shrink=0.5)
    assert line.calls == [8.0, 4.0, 2.0, 1.0]
    assert result.accepted
    assert result.step_size == 1.0
    assert result.loss == 0.0
    assert (result.trials, result.backtracks) == (4, 3)


def test_linear_function_is_accepted_at_once():
    result = armijo_search(lambda eta: 3.0 - eta, 3.0, 1.0, step_size=0.7, c=0.99)
    assert (result.step_size, result.trials, result.backtracks) == (0.7, 1, 0)


def test_rising_function_uses_up_its_trials_and_goes_on_from_there():
    result = armijo_search(lambda eta: 1.0 + eta, 1.0, 1.0, step_size=1.0, shrink=0.5, max_trials=6)
    assert not result.accepted
    assert result.trials == result.backtracks == 6
    assert result.step_size == 0.5**5
    assert result.loss == 1.0


def test_stops_at_the_smallest_step_size():
    line = Line(lambda eta: 1.0 + eta)
    result = armijo_search(line, 1.0, 1.0, step_size=1.0, shrink=0.1, min_step_size=0.05)
    assert line.calls == [1.0, 0.1]
    assert not result.accepted


def test_first_trial_respects_the_smallest_step_size():
    line = Line(lambda eta: -eta)
    assert armijo_search(line, 0.0, 1.0, step_size=1e-5, min_step_size=0.1).step_size == 0.1
    assert line.calls == [0.1]


def test_first_trial_respects_the_largest_step_size():
    line = Line(lambda eta: -eta)
    assert armijo_search(line, 0.0, 1.0, step_size=5.0, max_step_size=2.0).step_size == 2.0
    assert line.calls == [2.0]


def test_non_finite_trials_are_rejections():
    def loss(eta):
        return math.nan if eta > 3 else math.inf if eta > 1 else -math.inf if eta > 0.6 else 1 - eta

    result = armijo_search(loss, 1.0, 1.0, step_size=4.0, c=0.5, shrink=0.5)
    assert (result.step_size, result.trials) == (0.5, 4)


@pytest.mark.parametrize(
    ("settled", "smallest", "kept"),
    [
        (False, 0.0, 0.5**4),  # out of trials: there may be finite losses further down
        (False, 0.2, 1.0),  # down to the smallest step size: it is not the step size
        (True, 0.0, 1.0),  # from a step size that was right before: it is this batch
    ],
)
def test_a_search_without_a_finite_trial_goes_on_lower_where_that_may_help(settled, smallest, kept):
    options = {"shrink": 0.5, "max_trials": 5, "min_step_size": smallest}
    result = armijo_search(lambda eta: math.nan, 1.0, 1.0, step_size=1.0, past=Past(settled=settled), **options)
    assert (result.failure, result.accepted) == ("not finite", False)
    assert result.step_size == kept


@pytest.mark.parametrize(
    ("start", "slope"), [(math.nan, 1.0), (math.inf, 1.0), (1.0, math.nan), (1.0, 0.0), (1.0, -2.0)]
)
def test_a_start_that_says_nothing_keeps_the_step_size(start, slope):
    result = armijo_search(lambda eta: 0.0, start, slope, step_size=0.3)
    assert not result.accepted
    assert result.step_size == 0.3
    assert result.trials == 1


def test_flat_loss_stops_at_its_resolution_and_keeps_the_step_size():
    # The loss does not change, whatever the step: further trials cannot tell more than the first two.
    result = armijo_search(lambda eta: 1.0, 1.0, 1.0, step_size=0.1, relative_tolerance=1e-6)
    assert not result.accepted
    assert result.trials == 2
    assert result.step_size == 0.1


def test_two_trials_at_the_resolution_of_the_loss_count_in_a_row_only():
    losses = {1.0: 1.0, 0.5: 2.0, 0.25: 1.0, 0.125: 0.5}
    result = armijo_search(lambda eta: losses[eta], 1.0, 1.0, step_size=1.0, shrink=0.5, relative_tolerance=1e-6)
    assert (result.accepted, result.step_size) == (True, 0.125)


def test_tolerance_accepts_what_rounding_explains():
    noisy = 1.0 + 3e-7
    assert armijo_search(lambda eta: noisy, 1.0, 1e-3, step_size=1e-4, relative_tolerance=1e-6).accepted
    assert not armijo_search(
        lambda eta: noisy, 1.0, 1e-3, step_size=1e-4, relative_tolerance=0.0, max_trials=9
    ).accepted


def test_bracket_finds_the_same_scale_in_a_dozen_trials():
    def search(**options):
        return armijo_search(
            lambda eta: (1 - 1e6 * eta) ** 2, 1.0, 2e6, step_size=1.0, c=0.5, max_trials=500, **options
        )

    plain, bracketed = search(), search(bracket=0.2)
    largest = 1e-6
    assert plain.trials > 100
    assert bracketed.trials <= 16
    assert largest * 0.9 <= bracketed.step_size <= largest
    assert bracketed.accepted


@pytest.mark.parametrize("max_trials", [10, 12])
def test_bisection_ends_with_the_trials(max_trials):
    options = {"c": 0.5, "shrink": 0.99, "bracket": 0.2, "max_trials": max_trials}
    line = Line(lambda eta: (1 - 1e6 * eta) ** 2)
    result = armijo_search(line, 1.0, 2e6, step_size=1.0, **options)
    assert result.accepted
    assert result.trials == len(line.calls) == max_trials


def test_a_bracket_finer_than_shrink_is_shrink():
    line = Line(lambda eta: (1 - eta) ** 2)
    armijo_search(line, 1.0, 2.0, step_size=500.0, c=0.5, shrink=0.1, bracket=0.5)
    assert line.calls == pytest.approx([500, 50, 5, 0.5])


def test_patience_postpones_the_bracket():
    line = Line(lambda eta: (1 - eta) ** 2)
    armijo_search(line, 1.0, 2.0, step_size=100.0, c=0.5, shrink=0.8, bracket=0.1, patience=2, past=Past(True))
    assert line.calls[:5] == pytest.approx([100, 80, 64, 6.4, 0.64])


def test_the_tolerance_is_smoothed_as_the_decrease_is():
    # 0.1 * 0.01 is less than c η s = 0.005, and 0.01 is more.
    options = {"c": 0.5, "smoothing": 0.9, "relative_tolerance": 0.01, "past": Past(slope=0.01), "max_trials": 1}
    assert not armijo_search(lambda eta: 1.0, 1.0, 0.01, step_size=1.0, **options).accepted


def test_smoothed_condition_of_salsa():
    # β h + (1 - β)(f0 - f) >= c η (β s̄ + (1 - β) s), with f(η) = 1 - η s + η² at s = 2.
    beta, h, s_bar, c = 0.9, 0.3, 2.5, 0.5

    def holds(eta):
        return beta * h + (1 - beta) * (2 * eta - eta**2) >= c * eta * (beta * s_bar + (1 - beta) * 2)

    result = armijo_search(
        lambda eta: 1 - 2 * eta + eta**2,
        1.0,
        2.0,
        step_size=1.0,
        c=c,
        shrink=0.8,
        smoothing=beta,
        past=Past(decrease=h, slope=s_bar),
        relative_tolerance=0.0,
    )
    assert result.step_size == pytest.approx(0.8**result.backtracks)
    assert holds(result.step_size)
    assert not holds(result.step_size / 0.8)


def test_reads_tensors_and_adds_up_a_vector_of_slopes():
    result = armijo_search(
        lambda eta: torch.tensor((1 - eta) ** 2), torch.tensor(1.0), torch.tensor([0.5, 1.5]), step_size=1.0, c=0.5
    )
    assert result.accepted
    assert result.slopes == (0.5, 1.5)
    assert result.slope == 2.0
    assert all(isinstance(value, float) for value in (result.loss, result.loss_before, result.step_size))


@given(
    curvature=st.floats(1e-6, 1e6),
    slope=st.floats(1e-6, 1e6),
    start=st.floats(1e-6, 1e6),
    c=st.floats(0.01, 0.99),
    shrink=st.floats(0.1, 0.95),
    bracket=st.none() | st.floats(0.05, 0.5),
    patience=st.integers(0, 4),
)
def test_on_any_parabola_the_result_satisfies_the_condition(curvature, slope, start, c, shrink, bracket, patience):
    line = Line(lambda eta: -slope * eta + curvature * eta**2 / 2)
    result = armijo_search(
        line, 0.0, slope, step_size=start, past=Past(settled=True),
        c=c, shrink=shrink, bracket=bracket, patience=patience, max_trials=60,
    )  # fmt: skip
    assert result.trials == len(line.calls) <= 60
    largest = 2 * (1 - c) * slope / curvature
    if result.accepted:
        assert result.step_size in line.calls
        assert -result.loss >= c * result.step_size * slope
        assert (
            result.step_size == start or result.step_size >= 0.99 * shrink * min(largest, start) or result.trials == 60
        )
    else:
        assert result.trials == 60
        assert min(line.calls) > 0.99 * largest
