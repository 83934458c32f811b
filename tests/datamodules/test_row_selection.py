from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from datamodules.glue.row_selection import sample, thin_out_minority


@given(st.integers(1, 200), st.integers(1, 300), st.integers(0, 5))
def test_a_sample_is_of_its_size_without_repeats_and_in_order(size, limit, seed):
    rows = sample(size, limit, seed)
    assert len(rows) == min(size, limit)
    assert (np.diff(rows) > 0).all()
    assert set(rows) <= set(range(size))
    assert np.array_equal(rows, sample(size, limit, seed))


def test_a_sample_is_spread_over_all_rows():
    rows = sample(1000, 200, seed=0)
    assert 400 < rows.mean() < 600
    assert not np.array_equal(rows, sample(1000, 200, seed=1))
    assert np.array_equal(sample(7, None, seed=3), np.arange(7))


@given(st.lists(st.integers(0, 3), min_size=1, max_size=100), st.floats(0.01, 1), st.integers(0, 3))
def test_only_the_rarest_class_loses_rows(labels, fraction, seed):
    kept = thin_out_minority(labels, fraction, seed)
    assert (np.diff(kept) > 0).all()
    before = {label: labels.count(label) for label in set(labels)}
    rarest = max(label for label in before if before[label] == min(before.values()))
    after = [labels[row] for row in kept]
    for label, count in before.items():
        expected = max(1, round(fraction * count)) if label == rarest else count
        assert after.count(label) == expected
