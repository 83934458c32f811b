"""Subsets of a tensor's entries."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from optimizers.entry_selection import chosen_at_random, select_entries, subset_count


@pytest.mark.parametrize(
    ("numel", "size", "count"), [(10, None, 10), (10, 3, 3), (10, 30, 10), (10, 0.25, 3), (10, 1.0, 10), (10, 1, 1)]
)
def test_a_size_is_a_number_of_entries_or_a_share(numel, size, count):
    assert subset_count(numel, size) == count


@pytest.mark.parametrize("size", [0, -1, 0.0, 1.5, True, float("nan")])
def test_a_size_that_makes_no_sense_is_an_error(size):
    with pytest.raises(ValueError, match="subset_size"):
        subset_count(10, size)


def test_the_largest_magnitudes():
    tensor = torch.tensor([[0.1, -5.0, 0.2], [3.0, -0.3, -4.0]])
    assert select_entries(tensor, "largest", 3, seed=0).tolist() == [1, 3, 5]
    assert select_entries(tensor.t(), "largest", 3, seed=0).tolist() == [1, 3, 5]  # positions in memory


def test_the_largest_squared_gradients():
    tensor = torch.zeros(2, 3)
    tensor.grad = torch.tensor([[0.1, -5.0, 0.2], [3.0, -0.3, -4.0]])
    assert select_entries(tensor, "fisher", 2, seed=0).tolist() == [1, 5]
    turned = torch.zeros(3, 2).t()
    turned.grad = tensor.grad.clone()
    assert sorted(turned.grad.t().reshape(-1)[select_entries(turned, "fisher", 2, seed=0)].tolist()) == [-5.0, -4.0]


def test_random_subsets_differ_between_seeds():
    tensor = torch.zeros(100)
    one, same, other = (select_entries(tensor, "random", 5, seed=seed).tolist() for seed in (1, 1, 2))
    assert one == same
    assert one != other


def test_all_entries_need_no_positions():
    assert select_entries(torch.zeros(4), "all", 2, seed=0) is None
    assert select_entries(torch.zeros(4), "random", 4, seed=0) is None


@given(st.integers(1, 300).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n))), st.integers(0, 2**63 - 1))
def test_positions_chosen_at_random_are_distinct_and_sorted(sizes, seed):
    numel, count = sizes
    chosen = chosen_at_random(numel, count, seed).tolist()
    assert len(chosen) == count
    assert chosen == sorted(set(chosen))
    assert 0 <= chosen[0] <= chosen[-1] < numel
    assert chosen == chosen_at_random(numel, count, seed).tolist()


@pytest.mark.parametrize("count", [3, 8])
def test_every_position_is_equally_likely(count):
    times = np.zeros(10)
    for seed in range(4000):
        times[chosen_at_random(10, count, seed).numpy()] += 1
    expected = 400 * count
    assert np.abs(times - expected).max() < 5 * math.sqrt(expected)
