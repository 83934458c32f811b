"""The estimator of a peak learning rate alone: on numbers, without an optimizer."""

from __future__ import annotations

import dataclasses
import io
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from optimizers import PeakRate, PeakRateState


def searched(losses, slopes, curvatures, **options):
    """The state and the peaks of an estimator that searches in each of these steps."""
    estimator = PeakRate()
    state, peaks = estimator.begin(), []
    for loss, slope, curvature in zip(losses, slopes, curvatures, strict=True):
        state.steps += 1
        peaks.append(estimator.update(state, loss, slope, curvature, **options))
    return state, peaks


@given(slope=st.floats(1e-6, 1e6), loss=st.floats(1e-3, 1e3), curvature=st.floats(1e-3, 1e3))
def test_the_slope_cancels_out(slope, loss, curvature):
    _, (peak,) = searched([loss], [slope], [curvature])
    assert peak == pytest.approx(0.12 * 0.15 * math.sqrt(2 * loss / curvature))
    # The geometric mean of the parabola's minimiser and Polyak's step.
    assert peak == pytest.approx(0.12 * 0.15 * math.sqrt(slope / curvature * 2 * loss / slope))


def test_a_loss_that_is_not_positive_leaves_the_parabolas_minimiser():
    _, (peak,) = searched([-1.0], [3.0], [100.0])
    assert peak == pytest.approx(0.12 * 0.15 * 0.03)


def test_later_searches_count_more():
    state, _ = searched([0.5, 0.5, 0.5], [1.0] * 3, [1.0, 4.0, 16.0])
    assert state.log_distance == pytest.approx((1 * 0 - 2 * math.log(2) - 3 * math.log(4)) / 6)


def test_the_largest_is_kept_unless_no_schedule_falls():
    curvatures = [1.0, 4.0, 16.0]
    assert searched([0.5] * 3, [1.0] * 3, curvatures)[1] == pytest.approx([0.018] * 3)
    falling = searched([0.5] * 3, [1.0] * 3, curvatures, keeps_largest=False)[1]
    assert falling == sorted(falling, reverse=True)
    assert falling[2] < falling[0] / 2


def test_without_a_curvature_the_distance_stays():
    estimator = PeakRate()
    state, (peak,) = searched([0.5], [1.0], [1.0])
    state.steps += 1
    assert estimator.update(state, 0.5, -1.0, None) == pytest.approx(peak)
    assert state.searched_at == 2


@pytest.mark.parametrize(("earlier", "agreement"), [(0.0, 0.1), (1.0, 0.29), (-0.5, 0.02)])
def test_the_agreement_is_the_share_that_earlier_gradients_explain(earlier, agreement):
    """Ten batches whose slopes come from the earlier gradients, from the batch's own, or from neither."""
    estimator = PeakRate()
    state = estimator.begin()
    for step in range(1, 11):
        state.steps = step
        estimator.add_slopes(state, expected=earlier / 0.9, earlier=earlier, present=1.0)
    estimator.update(state, 0.5, 1.0, 1.0)
    batches = sum(step / 10 for step in range(1, 11))
    scale = abs(earlier) + 1
    expected = (1.5 + batches * earlier / 0.9 / scale) / (10 + batches * (earlier + 1) / scale)
    assert state.agreement == pytest.approx(max(0.02, expected), rel=1e-6)
    assert state.agreement == pytest.approx(agreement, abs=0.01)


def test_slopes_count_alike_whatever_their_size():
    estimator = PeakRate()
    states = [estimator.begin() for _ in range(2)]
    for state, size in zip(states, (1e-6, 1e6), strict=True):
        state.steps = 1
        estimator.add_slopes(state, 0.5 * size, 0.4 * size, 1.0 * size)
    torch.testing.assert_close(states[0].slope_sums, states[1].slope_sums)


def test_slopes_of_zero_tell_nothing():
    estimator = PeakRate()
    state = estimator.begin()
    state.steps = 3
    estimator.add_slopes(state, 0.0, 0.0, 0.0)
    assert state.slope_sums.tolist() == [0.0, 0.0]


def due_steps(estimator, steps, total=None):
    state, due, split = estimator.begin(), [], []
    for _ in range(steps):
        state.steps += 1
        progress = state.steps / total if total else None
        if estimator.splits_slope(state, progress):
            split.append(state.steps)
        if estimator.is_due(state, progress):
            due.append(state.steps)
            estimator.update(state, 0.5, 1.0, 1.0)
    return due, split


def test_searches_thin_out_and_end_in_the_middle_of_the_run():
    due, split = due_steps(PeakRate(), 400, total=400)
    assert due == [1, 2, 3, 4, 6, 9, 13, 19, 28, 42, 63, 94, 134, 174]
    assert split == [*range(1, 41), *range(44, 201, 4)]
    assert due_steps(PeakRate(), 60, total=30)[1] == list(range(1, 21))
    assert due_steps(PeakRate(longest_interval=5), 30)[0][-3:] == [18, 23, 28]


def test_a_measurement_that_begins_anew_searches_as_the_first_did():
    estimator = PeakRate()
    state = estimator.begin(steps=100, log_distance=-3.0)
    assert estimator.probe(state) == pytest.approx(0.2 * math.exp(-3))
    due = []
    for _ in range(25):
        state.steps += 1
        if estimator.is_due(state, progress=0.9):
            due.append(state.steps - 100)
            estimator.update(state, 0.5, 1.0, 1.0)
    assert due == [1, 2, 3, 4, 6, 9, 13, 19]
    assert state.log_distance == 0


def test_a_state_can_be_saved_and_loaded_as_plain_values():
    state, _ = searched([0.5, 0.4], [1.0, 1.0], [1.0, 2.0])
    file = io.BytesIO()
    torch.save(vars(state), file)
    file.seek(0)
    assert vars(PeakRateState(**torch.load(file, weights_only=True))).keys() == vars(state).keys()


def test_the_constants_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        PeakRate().peak_fraction = 0.1


def test_the_peak_is_no_lower_than_the_least() -> None:
    estimator = PeakRate()
    low, high = estimator.begin(), estimator.begin()
    low.least_peak, high.least_peak = 1e-9, 1.0
    for state in (low, high):
        assert estimator.peak(state) == state.least_peak
        state.steps += 1
    free = estimator.update(low, loss=0.5, slope=1.0, curvature=100.0)
    assert free == pytest.approx(0.12 * 0.15 * 0.1)
    assert estimator.update(high, loss=0.5, slope=1.0, curvature=100.0) == 1.0
    assert high.minimiser == low.minimiser


@pytest.mark.parametrize(
    ("total_steps", "times"), [(None, 1), (2000, 1), (108, 13 / 108 / 0.12), (30, 13 / 30 / 0.12), (4, 0.5 / 0.12)]
)
def test_the_least_peak_is_larger_in_a_short_run(total_steps: int | None, times: float) -> None:
    state = PeakRate().begin()
    state.least_peak = 1e-3
    assert PeakRate().peak(state, total_steps) == pytest.approx(times * 1e-3)
    state.minimiser = 1.0
    assert PeakRate().peak(state, total_steps) == PeakRate().share(total_steps)
