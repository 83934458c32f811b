"""Rows that are held out for validation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules import DataError
from datamodules.texts.validation_split import keep_every_label, strata_of_label_sets, stratified_rows


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=2, max_size=200), st.floats(0.05, 0.6), st.integers(0, 3))
def test_every_class_gives_its_share_and_keeps_a_row(labels, fraction, seed):
    strata = np.array(labels)
    counts = np.bincount(strata, minlength=6)
    if counts.max() == 1:
        with pytest.raises(DataError, match=r"none of the \d+ training rows can be held out for validation"):
            stratified_rows(strata, fraction, seed)
        return
    rows = stratified_rows(strata, fraction, seed)
    assert sorted(set(rows.tolist())) == rows.tolist()
    assert rows.tolist() == stratified_rows(strata, fraction, seed).tolist()
    taken = np.bincount(strata[rows], minlength=6)
    assert (taken[counts > 0] < counts[counts > 0]).all()
    assert (taken <= np.floor(fraction * counts) + 1).all()
    assert (taken >= np.minimum(np.floor(fraction * counts), counts - 1)).all()
    wanted = max(1, round(fraction * len(labels)))
    if (counts[counts > 0] > 2 / fraction).all():
        assert len(rows) == wanted


def test_the_seed_decides():
    strata = np.arange(1000) % 2
    assert stratified_rows(strata, 0.1, 0).tolist() != stratified_rows(strata, 0.1, 1).tolist()
    assert len(stratified_rows(strata, 0.1, 0)) == 100


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sets(st.integers(0, 4), max_size=3), min_size=3, max_size=60), st.integers(0, 3))
def test_every_label_of_several_keeps_a_row(sets, seed):
    label_sets = [sorted(labels) for labels in sets]
    strata = strata_of_label_sets(label_sets, 5)
    if np.bincount(strata).max() == 1:
        return
    held_out = keep_every_label(stratified_rows(strata, 0.4, seed), label_sets)
    left = {label for row, labels in enumerate(label_sets) if row not in held_out for label in labels}
    assert left == {label for labels in label_sets for label in labels}
