"""Means, tests and corrections, against values worked out by hand and against SciPy's own."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from benchmarks.study.statistics import (
    best_cell,
    compare_with_best,
    expected_best,
    holm,
    is_significantly_best,
    paired_p_value,
    tuning_frame,
)


def test_holm_by_hand() -> None:
    # Sorted 0.01, 0.02, 0.03, 0.04 times 4, 3, 2, 1, made monotone.
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_holm_counts_only_comparisons_that_were_made() -> None:
    corrected = holm([math.nan, 0.01, math.nan, 0.02])
    assert corrected[1] == pytest.approx(0.02)
    assert corrected[3] == pytest.approx(0.02)
    assert math.isnan(corrected[0])
    assert math.isnan(corrected[2])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_is_between_the_value_and_bonferroni_and_keeps_the_order(p: list[float]) -> None:
    corrected = holm(p)
    assert all(raw <= c + 1e-12 and c <= min(1.0, raw * len(p)) + 1e-12 for raw, c in zip(p, corrected, strict=True))
    order = np.argsort(p, kind="stable")
    assert np.all(np.diff(np.array(corrected)[order]) >= 0)


def test_the_paired_test_is_student_s_on_the_differences() -> None:
    a, b = pd.Series([0.81, 0.79, 0.84, 0.80]), pd.Series([0.78, 0.78, 0.80, 0.79])
    differences = (a - b).to_numpy()
    t = differences.mean() / (differences.std(ddof=1) / math.sqrt(4))
    assert paired_p_value(a, b) == pytest.approx(2 * stats.t.sf(t, df=3))
    assert paired_p_value(a, b) == pytest.approx(paired_p_value(b, a))


def test_the_paired_test_uses_the_seeds_that_both_have() -> None:
    a, b = pd.Series([0.81, 0.79, 0.84, math.nan]), pd.Series([0.78, 0.78, 0.80, 0.1])
    assert paired_p_value(a, b) == pytest.approx(stats.ttest_rel(a[:3], b[:3]).pvalue)
    assert math.isnan(paired_p_value(pd.Series([1.0, math.nan]), pd.Series([2.0, 3.0])))


def test_equal_differences_are_no_verdict() -> None:
    a = pd.Series([0.5, 0.6, 0.7])
    assert paired_p_value(a, a) == 1.0
    assert math.isnan(paired_p_value(pd.Series([2.0, 3.0, 4.0]), pd.Series([1.0, 2.0, 3.0])))
    # Accuracies on 500 examples as they are logged, in float32: 21 more are right with every seed.
    right = np.array([376, 391, 370])
    ahead, behind = (pd.Series(np.float32(n / 500).astype(float)) for n in (right + 21, right))
    assert (ahead - behind).nunique() > 1
    assert math.isnan(paired_p_value(ahead, behind))


def test_two_seeds_are_no_verdict() -> None:
    assert math.isnan(paired_p_value(pd.Series([0.8, 0.9]), pd.Series([0.7, 0.75])))
    one_example_ahead = runs_of({0: [409 / 512, 421 / 512], 1: [408 / 512, 420 / 512]})
    assert not is_significantly_best(compare_with_best(one_example_ahead))


def runs_of(scores: dict[int, list[float]], metric: str = "val/accuracy") -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"cell": cell, "seed": seed, "score": score, "metric": metric}
            for cell, values in scores.items()
            for seed, score in enumerate(values)
        ]
    )


def test_every_pair_counts_in_the_correction() -> None:
    scores = {0: [0.90, 0.91, 0.93, 0.92], 1: [0.80, 0.83, 0.82, 0.80], 2: [0.89, 0.90, 0.93, 0.90]}
    frame = runs_of(scores)
    raw = {pair: stats.ttest_rel(scores[pair[0]], scores[pair[1]]).pvalue for pair in itertools.combinations(scores, 2)}
    corrected = dict(zip(raw, holm(list(raw.values())), strict=True))
    p_best = compare_with_best(frame)
    assert best_cell(frame) == 0
    assert math.isnan(p_best[0])
    assert p_best[1] == pytest.approx(corrected[0, 1])
    assert p_best[2] == pytest.approx(corrected[0, 2])
    assert p_best[1] < 0.05 < p_best[2]
    assert not is_significantly_best(p_best)


def test_a_clear_winner_is_marked_and_one_seed_never_is() -> None:
    clear = runs_of({0: [0.5, 0.52, 0.51, 0.50], 1: [0.90, 0.93, 0.90, 0.91]})
    assert best_cell(clear) == 1
    assert is_significantly_best(compare_with_best(clear))
    assert not is_significantly_best(compare_with_best(runs_of({0: [0.5], 1: [0.9]})))
    assert not is_significantly_best(compare_with_best(runs_of({0: [0.5, 0.6]})))


@pytest.mark.parametrize("metric", ["val/loss", "val/rmse", "val_mismatched/mae"])
def test_the_best_loss_or_error_is_the_lowest_and_crashed_cells_do_not_count(metric: str) -> None:
    frame = runs_of({0: [0.5, 0.6], 1: [0.3, 0.2], 2: [math.nan, math.nan], 3: [math.inf, -math.inf]}, metric)
    assert best_cell(frame) == 1
    assert math.isnan(compare_with_best(frame)[2])
    assert best_cell(runs_of({0: [math.nan]})) is None


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=6), st.data())
def test_expected_best_is_the_mean_over_all_choices(scores: list[float], data: st.DataObject) -> None:
    tries = data.draw(st.integers(1, len(scores)))
    choices = list(itertools.combinations(scores, tries))
    assert expected_best(scores, tries) == pytest.approx(sum(map(max, choices)) / len(choices), abs=1e-9)
    assert expected_best(scores, tries, lower_is_better=True) == pytest.approx(
        sum(map(min, choices)) / len(choices), abs=1e-9
    )


def test_tuning_counts_every_try() -> None:
    rows = [
        {"optimizer": "AdamW", "lr": lr, "cell": cell, "seed": seed, "score": score, "train_seconds": 10.0 + cell}
        for cell, (lr, scores) in enumerate({"1e-4": [0.7, 0.8], "2e-4": [0.9, 0.6]}.items())
        for seed, score in enumerate(scores)
    ] + [
        {"optimizer": "SaLSA", "lr": "", "cell": 2, "seed": seed, "score": 0.85, "train_seconds": 12.0}
        for seed in range(2)
    ]
    table = tuning_frame(pd.DataFrame(rows).assign(metric="val/accuracy"), ["optimizer", "lr"], "lr")
    adamw, salsa = table[table["optimizer"] == "AdamW"], table[table["optimizer"] == "SaLSA"]
    assert list(adamw["tries"]) == [1, 2]
    assert list(adamw["score"]) == pytest.approx([0.75, 0.85])
    assert list(adamw["seconds"]) == pytest.approx([10.5, 21.0])
    assert adamw["score_se"].iloc[1] == pytest.approx(0.05)
    assert list(salsa["score"]) == pytest.approx([0.85])
    assert list(salsa["seconds"]) == pytest.approx([12.0])
