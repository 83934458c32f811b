"""Rows that are held out for validation."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules import DataError
from datamodules.labels.label_kind import LabelKind
from datamodules.texts.validation_split import (
    keep_every_label,
    strata_of_label_sets,
    stratified_rows,
    validation_rows,
)


@settings(max_examples=200)
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
    assert len(rows) <= wanted
    with_more = [label for label in range(6) if taken[label] == np.floor(fraction * counts[label]) + 1]
    with_room = [label for label in range(6) if label not in with_more and taken[label] < counts[label] - 1]
    if len(rows) < wanted:
        assert not with_room
    remainders = fraction * counts - np.floor(fraction * counts)
    assert all(remainders[more] >= remainders[less] for more in with_more for less in with_room)


def test_the_seed_decides():
    strata = np.arange(1000) % 2
    assert stratified_rows(strata, 0.1, 0).tolist() != stratified_rows(strata, 0.1, 1).tolist()
    assert len(stratified_rows(strata, 0.1, 0)) == 100


def test_the_stratum_of_a_row_is_its_rarest_label():
    # 0 is there three times, 1 twice, 2 and 3 once each; of equally rare ones it is the first.
    assert strata_of_label_sets([[0, 1], [0], [0, 2, 3], [1], []], 4).tolist() == [1, 0, 2, 1, 4]


@settings(max_examples=200)
@given(
    st.lists(st.sets(st.integers(0, 4), max_size=3), min_size=1, max_size=20),
    st.sets(st.integers(0, 19), max_size=20),
)
def test_a_row_goes_back_to_training_only_where_a_label_has_no_other(sets, chosen):
    label_sets = [sorted(labels) for labels in sets]
    held_out = sorted(row for row in chosen if row < len(sets))
    training = [labels for row, labels in enumerate(sets) if row not in held_out]
    expected = []
    for row in held_out:
        if all(any(label in labels for labels in training) for label in sets[row]):
            expected.append(row)
        else:
            training.append(sets[row])
    assert keep_every_label(np.array(held_out, dtype=int), label_sets).tolist() == expected


@settings(max_examples=200)
@given(st.lists(st.sets(st.integers(0, 4), max_size=3), min_size=3, max_size=60), st.integers(0, 3))
def test_every_label_of_several_keeps_a_row(sets, seed):
    label_sets = [sorted(labels) for labels in sets]
    strata = strata_of_label_sets(label_sets, 5)
    if np.bincount(strata).max() == 1:
        return
    held_out = keep_every_label(stratified_rows(strata, 0.4, seed), label_sets)
    left = {label for row, labels in enumerate(label_sets) if row not in held_out for label in labels}
    assert left == {label for labels in label_sets for label in labels}


def test_classes_keep_their_shares_and_scores_are_drawn_from_all_rows():
    classes = LabelKind("single_label_classification", ("a", "b"))
    labels = np.array([0] * 60 + [1] * 40)
    held_out = validation_rows(pa.chunked_array([labels]), classes, 0.1, seed=0)
    assert np.bincount(labels[held_out]).tolist() == [6, 4]
    # Every score is a value of its own: by value none could be held out.
    scores = pa.chunked_array([np.linspace(0.0, 1.0, 100)])
    assert len(validation_rows(scores, LabelKind("regression", ()), 0.1, seed=0)) == 10


def test_the_last_training_row_of_a_label_is_not_held_out():
    label_sets = [[0], [0], [0], [0], [1], []]
    kind = LabelKind("multi_label_classification", ("often", "once"))
    for seed in range(20):
        held_out = validation_rows(pa.chunked_array([label_sets]), kind, 0.4, seed)
        assert 4 not in held_out
        assert len(held_out) >= 1
