"""Regret on made-up results, whose regrets are known."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from benchmarks.study.definition import RegretOptions, Study
from benchmarks.study.grid import Run, expand_runs
from benchmarks.study.regret import (
    average_ranks,
    bootstrap,
    losses_by_setting,
    performance_profile,
    regret_frame,
    summarize,
)
from benchmarks.study.regret_figures import regret_figure
from benchmarks.study.regret_report import write_regret
from benchmarks.study.report import write_report
from benchmarks.study.results import FAILED, FINISHED, Result
from benchmarks.study.statistics import runs_frame
from benchmarks.study.study_file import load_study

STUDY = """
title: Made up
axes:
  setting:
    a: {settings: {s: 1}}
    b: {settings: {s: 2}}
    c: {settings: {s: 3}}
  method:
    AdamW: {axes: {rate: {keys: lr, values: [1e-4, 5e-4]}}}
    own: {settings: {o: 1}}
    other: {settings: {o: 2}}
seeds: 2
budget: {epochs: 2}
report:
  tables_by: setting
  primary: best
  regret: {settings: setting, grid: AdamW, chose_constants: [c]}
"""
# Best losses of the two seeds.
LOSSES = {
    ("a", "1e-4"): (0.50, 0.54),  # the best rate of a, though 5e-4 is better at the second seed
    ("a", "5e-4"): (0.60, 0.50),
    ("a", "own"): (0.51, 0.56),  # + 0.01, + 0.02
    ("a", "other"): (0.70, 0.74),  # + 0.20
    ("b", "1e-4"): (0.90, 0.90),
    ("b", "5e-4"): (0.80, 0.80),
    ("b", "own"): (0.77, 0.77),  # - 0.03
    ("b", "other"): (0.90, 0.90),  # + 0.10
    ("c", "1e-4"): (0.20, 0.20),
    ("c", "5e-4"): (0.30, 0.30),
    ("c", "own"): (0.70, 0.70),  # + 0.50, in a setting that chose a constant
    ("c", "other"): (0.25, 0.25),
}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    path = tmp_path_factory.mktemp("study") / "made_up.yaml"
    path.write_text(STUDY)
    return load_study(path)


def label_of(run: Run) -> tuple[str, str]:
    labels = run.cell.labels
    return labels["setting"], labels.get("rate") or labels["method"]


def finished(run: Run, loss: float) -> Result:
    return Result(
        id=run.id,
        status=FINISHED,
        reason="",
        labels=dict(run.cell.labels),
        seed=run.seed,
        final={"val/loss": loss + 0.1, "val/accuracy": 1 - loss},
        best={"val/loss": loss, "val/accuracy": 1 - loss},
        processor_seconds=10.0,
    )


def made_up(study: Study) -> dict[str, Result]:
    results = {}
    for run in expand_runs(study):
        setting, method = label_of(run)
        loss = LOSSES[setting, method][run.seed]
        results[run.id] = dataclasses.replace(
            finished(run, loss),
            majority=0.05,
            processor_seconds=15.0 if method == "own" else 10.0,
            # Searching takes 0.05 from the grid, and nothing from the others.
            interpolation={
                "alpha": 0.8,
                "loss": loss + (0.05 if method in ("1e-4", "5e-4") else 0.1),
                "loss_as_trained": loss + 0.1,
                "accuracy": 1 - loss,
                "accuracy_as_trained": 1 - loss,
            },
        )
    return results


def frame_of(study: Study, results: dict[str, Result]) -> pd.DataFrame:
    assert study.report.regret is not None
    runs = runs_frame(study, expand_runs(study), results)
    return regret_frame(runs, results, study.report.regret, study.axis_names())


def id_of(study: Study, setting: str, method: str, seed: int) -> str:
    (found,) = [run.id for run in expand_runs(study) if label_of(run) == (setting, method) and run.seed == seed]
    return found


def test_regrets_are_those_put_in(study: Study) -> None:
    unseen = frame_of(study, made_up(study)).query("unseen")
    table = summarize(unseen, "loss")
    assert table.loc["own", "mean"] == pytest.approx((0.015 - 0.03) / 2)
    assert table.loc["own", "median"] == pytest.approx((0.015 - 0.03) / 2)
    assert table.loc["own", "worst"] == pytest.approx(0.015)
    assert table.loc["own", "worst_setting"] == "a"
    assert table.loc["own", "below"] == 1
    assert table.loc["other", "mean"] == pytest.approx(0.15)
    # One rate per setting is the reference: the mean of 5e-4 in a is 0.03 above that of 1e-4.
    assert table.loc["AdamW · 5e-4", "mean"] == pytest.approx(0.03 / 2)
    assert table.loc["AdamW · 1e-4", "mean"] == pytest.approx(0.1 / 2)
    assert table.loc["AdamW, best of 2", "mean"] == pytest.approx(0.0)
    assert (table["settings"] == 2).all()
    assert (table["runs"] == 4).all()
    score = summarize(unseen, "score")  # accuracy is one minus the loss
    np.testing.assert_allclose(score["mean"], table["mean"].loc[score.index], atol=1e-12)
    relative = unseen[(unseen["method"] == "own") & (unseen["setting"] == "b")]["relative_regret"]
    np.testing.assert_allclose(relative, -0.03 / 0.8)


def test_the_search_is_counted_for_both_sides(study: Study) -> None:
    frame = frame_of(study, made_up(study)).query("unseen")
    trained, searched = summarize(frame, "trained"), summarize(frame, "searched")
    assert trained.loc["own", "mean"] == pytest.approx((0.015 - 0.03) / 2)
    assert searched.loc["own", "mean"] == pytest.approx((0.015 - 0.03) / 2 + 0.05)
    assert summarize(frame, "calibrated").empty  # nothing of that kind was logged


def test_another_method_with_several_rates_has_a_best_of_them_too(tmp_path: Path) -> None:
    path = tmp_path / "two_grids.yaml"
    path.write_text(
        STUDY.replace("    other: {settings: {o: 2}}", "    other: {axes: {rate: {keys: lr2, values: [1e-4, 5e-4]}}}")
    )
    study = load_study(path)
    results = {}
    for run in expand_runs(study):
        loss = LOSSES[run.cell.labels["setting"], run.cell.labels.get("rate") or "own"][run.seed]
        if run.cell.labels["method"] == "other":
            loss -= 0.05  # the same two rates, and better by as much everywhere
        results[run.id] = finished(run, loss)
    frame = frame_of(study, results)
    best = frame[frame["method"] == "other, best of 2"]
    assert sorted(best["setting"]) == ["a", "a", "b", "b", "c", "c"]
    np.testing.assert_allclose(best["loss_regret"], -0.05)
    np.testing.assert_allclose(best["cost"], 2.0)
    assert set(frame[frame["is_best"]]["method"]) == {"AdamW, best of 2", "other, best of 2"}
    # Where a seed lacks one of its rates there is no best of them.
    (missing,) = [
        run.id
        for run in expand_runs(study)
        if run.cell.labels == {"setting": "b", "method": "other", "rate": "1e-4"} and run.seed == 1
    ]
    del results[missing]
    fewer = frame_of(study, results)
    of_b = fewer[fewer["setting"] == "b"]
    assert of_b[of_b["method"] == "other, best of 2"]["seed"].to_list() == [0]
    assert of_b[of_b["method"] == "other · 5e-4"]["seed"].to_list() == [0, 1]


def test_cost_is_over_one_run_of_the_grid_and_counts_all_its_rates(study: Study) -> None:
    cost = frame_of(study, made_up(study)).groupby("method")["cost"].mean()
    assert cost.to_dict() == pytest.approx(
        {"AdamW · 1e-4": 1, "AdamW · 5e-4": 1, "AdamW, best of 2": 2, "own": 1.5, "other": 1}
    )


def test_a_seed_without_all_rates_counts_for_nobody(study: Study) -> None:
    results = made_up(study)
    del results[id_of(study, "b", "1e-4", 1)]
    del results[id_of(study, "b", "other", 0)]
    frame = frame_of(study, results)
    of_b = frame[frame["setting"] == "b"]
    assert set(of_b["seed"]) == {0}
    assert set(of_b["method"]) == {"AdamW · 1e-4", "AdamW · 5e-4", "AdamW, best of 2", "own"}
    assert summarize(frame.query("unseen"), "loss").loc["other", "settings"] == 1


def test_failed_runs_are_in_no_mean_and_show_as_the_worst(study: Study) -> None:
    results = made_up(study)
    for setting, method in (("b", "own"), ("b", "5e-4")):  # a rate of the grid that failed is not the best one
        id = id_of(study, setting, method, 0)
        results[id] = dataclasses.replace(results[id], status=FAILED, reason="diverged")
    frame = frame_of(study, results)
    table = summarize(frame.query("unseen"), "loss")
    assert math.isinf(table.loc["own", "worst"])
    assert table.loc["own", "worst_setting"] == "b"
    assert table.loc["own", "mean"] == pytest.approx((0.015 + 0.77 - 0.90) / 2)
    assert frame[frame["method"] == "own"]["failed"].sum() == 1
    assert math.isinf(losses_by_setting(frame).loc["b", "own"])


def test_a_run_below_a_constant_prediction_counts_where_the_best_rate_learned(study: Study) -> None:
    results = made_up(study)
    id = id_of(study, "a", "own", 0)
    results[id] = dataclasses.replace(results[id], best={"val/loss": 0.51, "val/accuracy": 0.05})
    frame = frame_of(study, results)
    assert frame[frame["not_learned"]]["id"].to_list() == [id]


def test_the_bootstrap_has_the_spread_of_settings_and_of_seeds() -> None:
    """Without spread among seeds its variance is that of a mean of settings, without settings that of seeds."""
    values = np.array([1.0, 2.0, 4.0, 8.0])
    settings = bootstrap([np.full(3, value) for value in values], 20_000).mean(axis=1)
    assert settings.mean() == pytest.approx(values.mean(), rel=0.02)
    assert settings.std() == pytest.approx(values.std() / 2, rel=0.03)
    seeds = bootstrap([values], 20_000).mean(axis=1)
    assert seeds.std() == pytest.approx(values.std() / 2, rel=0.03)
    reference = stats.bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", rng=0)
    np.testing.assert_allclose(np.quantile(seeds, (0.025, 0.975)), reference.confidence_interval, rtol=0.05)


def test_the_critical_difference_is_that_of_a_textbook() -> None:
    """Demšar 2006 (JMLR 7), section 3.2.2: four methods on 14 data sets, q = 2.569 and a difference of 1.25."""
    losses = pd.DataFrame(np.random.default_rng(0).random((14, 4)), columns=list("abcd"))
    ranks, p_value, difference = average_ranks(losses)
    assert difference == pytest.approx(1.25, abs=0.005)
    assert ranks.sum() == pytest.approx(10)
    assert 0 <= p_value <= 1
    assert math.isnan(average_ranks(losses[["a", "b"]])[2])


def test_the_profile_counts_from_the_best_of_each_setting(study: Study) -> None:
    ratios = performance_profile(losses_by_setting(frame_of(study, made_up(study))))
    assert ratios.loc["a", "own"] == pytest.approx(0.535 / 0.52)
    assert ratios.loc["b", "own"] == 1.0
    assert (ratios.min(axis=1) == 1).all()


def test_methods_that_have_not_begun_do_not_empty_the_comparison(study: Study) -> None:
    results = made_up(study)
    for run in expand_runs(study):
        if label_of(run)[1] == "other" and label_of(run)[0] != "a":
            del results[run.id]
    losses = losses_by_setting(frame_of(study, results))
    assert losses.shape == (1, 5)  # a alone has all five
    del results[id_of(study, "a", "other", 0)], results[id_of(study, "a", "other", 1)]
    losses = losses_by_setting(frame_of(study, results))
    assert losses.shape == (3, 4)


def test_the_figure_has_a_dot_per_setting_and_a_stroke_per_mean(study: Study) -> None:
    frame = frame_of(study, made_up(study))
    axes = regret_figure(frame).axes[0]
    *dots, strokes = axes.lines
    methods = [label.get_text() for label in axes.get_yticklabels()]
    summary = summarize(frame, "loss")["mean"].sort_values()
    assert methods == list(summary.index)
    assert list(strokes.get_xdata()) == pytest.approx(list(summary))
    for method, line in zip(methods, dots, strict=True):
        of_method = frame[frame["method"] == method].groupby("setting")["loss_regret"].mean()
        assert sorted(line.get_xdata()) == pytest.approx(sorted(of_method)), method


def test_the_report_has_the_section_and_its_files(study: Study, tmp_path: Path) -> None:
    runs, results = expand_runs(study), made_up(study)
    write_report(study, runs, results, tmp_path, tmp_path / "whole")
    text = (tmp_path / "whole" / "report.md").read_text()
    section = (tmp_path / "whole" / "regret.md").read_text()
    section, _, code = section.rpartition("\n- ")
    assert section.strip() in text
    assert code.startswith("code: ")
    assert "12 of 12" not in section
    assert "24 of 24 runs are done" in section
    (row,) = [
        line
        for line in section.split("### All settings")[0].splitlines()
        if line.startswith("| own |") and "(a)" in line
    ][:1]
    assert "0.015 (a)" in row
    assert "1 of 2" in row
    by_setting = section.split("### Regret in loss by setting")[1].strip().splitlines()
    columns = [cell.strip() for cell in by_setting[0].split("|")]
    cells = {row.split("|")[1].strip(): row.split("|")[columns.index("own")].strip() for row in by_setting[2:5]}
    assert cells == {"a": "0.015", "b": "-0.030", "c": "0.500"}
    for name in ("regret_all.png", "profile_all.png", "ranks_all.png", "regret.csv"):
        assert (tmp_path / "whole" / name).is_file()
    assert len(pd.read_csv(tmp_path / "whole" / "regret.csv")) == 24 + 6  # and the best of the grid


def section_of(study: Study, results: dict[str, Result], folder: Path) -> str:
    """The section about these results alone."""
    assert study.report.regret is not None
    runs = runs_frame(study, expand_runs(study), results)
    return write_regret(frame_of(study, results), study.report.regret, runs, "code: abc", folder)


def test_the_section_of_a_part_says_what_is_compared(study: Study, tmp_path: Path) -> None:
    runs, results = expand_runs(study), made_up(study)
    part = {run.id: results[run.id] for run in runs if run.cell.labels["setting"] == "a" and run.seed == 0}
    assert "4 of 24 runs are done. 1 of 3 settings" in section_of(study, part, tmp_path)
    # The settings that all methods have done are compared, whatever else some have.
    without = {run.id: results[run.id] for run in runs if label_of(run) not in (("b", "other"), ("c", "other"))}
    lines = section_of(study, without, tmp_path).split("### All settings")[1].splitlines()
    columns = [cell.strip() for cell in lines[2].split("|")]
    (own,) = [line for line in lines[:12] if line.startswith("| own |")]
    assert own.split("|")[columns.index("mean, settings of all methods (1)")].strip() == "0.015"
    (first, *_) = part
    assert "no setting has all rates of the grid yet" in section_of(study, {first: results[first]}, tmp_path)


@pytest.mark.parametrize(
    ("regret", "message"),
    [
        ("{settings: task, grid: AdamW}", "report.regret.settings: no axis 'task'"),
        ("{settings: setting, grid: Adam}", "report.regret.grid: no level 'Adam'"),
        ("{settings: setting}", "report.regret.grid: expected a label"),
        ("{settings: setting, grid: AdamW, chose_constants: [d]}", "chose_constants: no level 'd'"),
    ],
)
def test_options_that_name_nothing_are_refused(regret: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(STUDY.replace("{settings: setting, grid: AdamW, chose_constants: [c]}", regret))
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        load_study(path)


def test_options_are_read(study: Study) -> None:
    assert study.report.regret == RegretOptions("setting", "AdamW", ("c",))
