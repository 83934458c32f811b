"""The report on made-up runs whose numbers are known."""

from __future__ import annotations

import dataclasses
import math
import re
import statistics
from pathlib import Path

import pandas as pd
import pytest

from benchmarks.study.curves import mean_curve
from benchmarks.study.definition import Study
from benchmarks.study.figures import distribution
from benchmarks.study.grid import Run, expand_runs
from benchmarks.study.report import code_version, write_report
from benchmarks.study.results import FAILED, FINISHED, Result
from benchmarks.study.run_folder import HISTORY_FILE, read_history, run_folder
from benchmarks.study.statistics import runs_frame
from benchmarks.study.study_file import load_study
from benchmarks.study.summary import summarize_run

STUDY = """
title: Made up
axes:
  task: {sst2: {settings: {t: 1}}}
  optimizer:
    AdamW: {axes: {learning_rate: {keys: lr, values: [1e-4, 5e-4]}}}
    SaLSA: {settings: {o: 1}}
    GLD: {settings: {o: 2}}
seeds: 4
budget: {epochs: 2}
report: {stability: true, tune_over: learning_rate}
published:
  - source: A Paper, Table 1
    measure: accuracy
    rows:
      - {task: sst2, optimizer: SaLSA, value: 0.8125}
      - {task: sst2, optimizer: Elsewhere, value: 0.5}
      - {task: sst2, optimizer: AdamW, value: 0.7}
"""
SCORES = {
    "AdamW1e-4": [0.70, 0.72, 0.71, 0.73],
    "AdamW5e-4": [0.60, 0.61, 0.62, 0.60],
    "SaLSA": [0.90, 0.91, 0.92, 0.94],
    "GLD": [0.50, 0.52, 0.51, None],
}
STEP_SECONDS = 0.5


def write_history(path: Path, accuracy: float, steps: int = 10, step_seconds: float = STEP_SECONDS) -> None:
    lines = ["step,seconds,name,value"]
    for step in range(1, steps + 1):
        second = step * step_seconds
        lines += [f"{step},{second},train/loss,{1 / step}", f"{step},{second},train/step_size/0,{1e-3 * step}"]
        lines += [f"{step},{second},train/evaluations,2"]
        if step % 5 == 0:
            lines += [f"{step},{second},val/loss,{1 - accuracy}", f"{step},{second},val/majority,0.515"]
            lines += [f"{step},{second},val/accuracy,{accuracy if step == steps else accuracy + 0.01}"]
    lines += [f"{steps},{steps * step_seconds},train/{name}" for name in ("memory_mib,100.0", "complete,1.0")]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    path = tmp_path_factory.mktemp("study") / "made_up.yaml"
    path.write_text(STUDY)
    return load_study(path)


@pytest.fixture(scope="module")
def written(study: Study, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report's folder."""
    output = tmp_path_factory.mktemp("output")
    return write_report(study, *made_up_results(study, output), output, output / "report").parent


def made_up_results(study: Study, output: Path) -> tuple[list[Run], dict[str, Result]]:
    runs = expand_runs(study)
    results = {}
    for run in runs:
        method = run.cell.labels["optimizer"] + run.cell.labels.get("learning_rate", "")
        score = SCORES[method][run.seed]
        folder = run_folder(output, run)
        if score is not None:
            write_history(folder / HISTORY_FILE, score)
        reason = "killed by SIGKILL | (out of memory?)" if score is None else ""
        results[run.id] = summarize_run(run, folder, reason, wall_seconds=7.0)
    return runs, results


def test_a_run_is_summarized_from_its_history(study: Study, tmp_path: Path) -> None:
    run = expand_runs(study)[0]
    write_history(tmp_path / HISTORY_FILE, 0.75)
    result = summarize_run(run, tmp_path, "", 7.0)
    assert (result.status, result.reason, result.steps) == (FINISHED, "", 10)
    assert result.final == {"val/loss": 0.25, "val/accuracy": 0.75}
    assert result.best == {"val/loss": 0.25, "val/accuracy": 0.76}
    assert result.majority == 0.515
    assert (result.train_seconds, result.seconds_per_step, result.peak_memory_mib) == (5.0, STEP_SECONDS, 100.0)


def test_the_best_value_of_an_error_is_the_lowest(study: Study, tmp_path: Path) -> None:
    lines = [f"{step},{step}.0,val/{name},{value}" for step in (1, 2) for name, value in (("rmse", step), ("f1", step))]
    (tmp_path / HISTORY_FILE).write_text("\n".join(["step,seconds,name,value", *lines]) + "\n")
    assert summarize_run(expand_runs(study)[0], tmp_path, "", 7.0).best == {"val/rmse": 1.0, "val/f1": 2.0}


def test_a_run_without_validation_has_failed_and_says_what_was_logged(study: Study, tmp_path: Path) -> None:
    (tmp_path / HISTORY_FILE).write_text("step,seconds,name,value\n1,0.5,val/f1,0.5\n1,0.5,train/complete,1.0\n")
    result = summarize_run(expand_runs(study)[0], tmp_path, "", 7.0)
    assert result.status == FAILED
    assert result.reason == "the metric val/accuracy was never logged by a validation (logged: val/f1)"
    (tmp_path / HISTORY_FILE).write_text("step,seconds,name,value\n1,0.5,train/complete,1.0\n")
    result = summarize_run(expand_runs(study)[0], tmp_path, "", 7.0)
    assert result.reason.startswith("no validation: the budget ends before the first epoch does; set trainer.val_ch")


@pytest.mark.parametrize("loss", ["nan", "inf"])
def test_a_run_that_diverged_has_failed_whatever_its_accuracy(study: Study, tmp_path: Path, loss: str) -> None:
    write_history(tmp_path / HISTORY_FILE, 0.5)
    history = (tmp_path / HISTORY_FILE).read_text()
    (tmp_path / HISTORY_FILE).write_text(history.replace("10,5.0,val/loss,0.5", f"10,5.0,val/loss,{loss}"))
    result = summarize_run(expand_runs(study)[0], tmp_path, "", 7.0)
    assert (result.status, result.reason) == (FAILED, f"diverged: the last val/loss is {loss}")
    assert result.best["val/loss"] == 0.5


def test_a_machine_is_told_with_all_that_times_depend_on() -> None:
    machine = {"host": "x", "cpu": "A CPU", "cores": 8, "ram_gib": 15.5, "gpu": None, "threads": 2, "runs_at_a_time": 4}
    result = Result("id", FINISHED, "", {}, 0, machine={**machine, "torch": "2.9", "commit": "abc"})
    assert result.machine_text() == "A CPU, 8 cores, 15.5 GiB of RAM, threads per run: 2, runs at a time: 4, torch 2.9"


def test_a_line_cut_off_by_a_kill_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / HISTORY_FILE
    path.write_text("step,seconds,name,value\n1,0.5,train/loss,1.0\n2,1.0,train/loss,0.25\n3,1.5,train/loss,0.12")
    assert read_history(path)["train/loss"] == [(1, 0.5, 1.0), (2, 1.0, 0.25)]


def table_after(report: str, heading: str) -> list[dict[str, str]]:
    lines = report.split(heading, 1)[1].splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("|"))
    rows = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
    return [dict(zip(rows[0], row, strict=True)) for row in rows[2:]]


def test_the_report_s_numbers(written: Path) -> None:
    report = (written / "report.md").read_text()
    assert re.search(r"^- written \d{4}-\d\d-\d\d by `python -m benchmarks.study made_up.yaml`$", report, re.MULTILINE)
    assert "4 cells, 4 seeds each; 15 runs finished, 1 failed, 0 missing" in report
    assert "the majority-class baseline scores 0.515" in report
    assert "All seeds of a row draw on the same training examples" in report
    runs = pd.read_csv(written / "runs.csv", keep_default_na=False)
    assert f"- {code_version(runs)}\n" in report

    rows = {(row["optimizer"], row["learning rate"]): row for row in table_after(report, "## sst2")}
    salsa, gld, adamw = rows["SaLSA", "—"], rows["GLD", "—"], rows["AdamW", "1e-4"]
    error = statistics.stdev(SCORES["SaLSA"]) / 2
    assert salsa["accuracy, last"] == f"**0.917 ± {error:.3f}**"
    assert salsa["accuracy, best"].startswith("0.927 ±")
    assert (salsa["p"], salsa["n"], salsa["failed"]) == ("best", "4", "0")
    assert (salsa["steps"], salsa["ms per step"], salsa["trials per step"]) == ("10", "500", "2")
    assert (salsa["MiB"], salsa["seconds"], salsa["not above baseline"]) == ("100", "5", "0 of 4")
    assert adamw["accuracy, last"].startswith("0.715 ±")
    assert float(adamw["p"].strip("< ")) < 0.05
    assert (gld["n"], gld["failed"], gld["not above baseline"]) == ("3", "1", "2 of 3")

    tuning = table_after(report, "### sst2")
    assert [(row["method"], row["values tried"], row["seconds"]) for row in tuning] == [
        ("AdamW", "1 of 2", "5"),
        ("AdamW", "2 of 2", "10"),
        ("SaLSA", "none to try", "5"),
        ("GLD", "none to try", "5"),
    ]
    assert tuning[1]["val/accuracy"].startswith("0.715")

    published = table_after(report, "A Paper, Table 1: accuracy.")
    assert [(row["optimizer"], row["published"]) for row in published] == [
        ("SaLSA", "0.8125"),
        ("Elsewhere", "0.5"),
        ("AdamW", "0.7"),
    ]
    assert published[0]["ours"].startswith("0.917 ±")
    assert [row["ours"] for row in published[1:]] == ["not run", "2 rows above"]

    failed = table_after(report, "## Failed runs")
    assert [(row["run"], row["reason"]) for row in failed] == [
        ("sst2 · GLD · seed 3", r"killed by SIGKILL \| (out of memory?)")
    ]


@pytest.mark.parametrize("task", ["  task: {sst2: {settings: {t: 1}}}\n", ""])
def test_a_study_of_nothing_but_values_to_tune_is_one_method(tmp_path: Path, task: str) -> None:
    path = tmp_path / "rates.yaml"
    rates = "  rate: {keys: lr, values: [1, 2]}\nseeds: 2\nbudget: {steps: 1}\nreport: {tune_over: rate}\n"
    path.write_text("axes:\n" + task + rates)
    study = load_study(path)
    runs = expand_runs(study)
    for run in runs:
        write_history(run_folder(tmp_path, run) / HISTORY_FILE, 0.7)
    results = {run.id: summarize_run(run, run_folder(tmp_path, run), "", 7.0) for run in runs}
    report = write_report(study, runs, results, tmp_path, tmp_path / "report").read_text()
    tuning = table_after(report, "## What a score costs")
    assert [(row["method"], row["values tried"]) for row in tuning] == [("all", "1 of 2"), ("all", "2 of 2")]


def test_every_figure_of_the_report_is_a_png(written: Path) -> None:
    report = (written / "report.md").read_text()
    linked = re.findall(r"!\[[^]]+\]\(([^)]+)\)", report)
    assert sorted(linked) == [
        f"{kind}_sst2.png" for kind in ("costs", "curves", "distribution", "step_sizes", "tuning")
    ]
    for name in linked:
        assert (written / name).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("metric", "name"), [("val/accuracy", "the majority-class baseline"), ("val/matthews", "a constant prediction")]
)
def test_the_distribution_names_what_scores_are_compared_with(metric: str, name: str) -> None:
    runs = pd.DataFrame({"cell": 0, "score": [0.1, 0.2, 0.3], "learned": True, "chance": 0.0})
    (axes,) = distribution(runs, {0: "own"}, metric).axes
    assert name in [text.get_text() for text in axes.texts]


def test_figures_of_the_same_numbers_are_the_same_files(study: Study, written: Path, tmp_path: Path) -> None:
    again = write_report(study, *made_up_results(study, tmp_path), tmp_path, tmp_path / "report").parent
    for figure in written.glob("*.png"):
        assert figure.read_bytes() == (again / figure.name).read_bytes()


@pytest.mark.parametrize(
    ("commits", "line"),
    [
        (["abc"], "code: all runs at commit abc, one version of the code"),
        (["abc-dirty"], "code: **uncommitted changes**, all runs at commit abc-dirty"),
        ([None], "code: **unknown version**, no run recorded its commit"),
        (
            ["abc", "def"],
            "code: **not one version**, 8 runs at abc, 7 runs at def; `--again '*'` repeats all runs",
        ),
        (
            ["abc", None],
            "code: **not one version**, 8 runs at abc, 7 runs at an unknown commit; `--again '*'` repeats all runs",
        ),
    ],
)
def test_a_report_says_whether_one_version_of_the_code_made_it(commits: list[str | None], line: str) -> None:
    made = [commits[i % len(commits)] or "" for i in range(15)]
    runs = pd.DataFrame({"status": [FINISHED] * 15 + [FAILED], "commit": [*made, "ghi"]})
    assert code_version(runs) == line
    assert ("one version of the code" in line) == (commits == ["abc"])


def test_tables_are_also_there_as_csv(written: Path) -> None:
    cells = pd.read_csv(written / "cells.csv")
    assert list(cells["score"].round(4)) == [0.715, 0.6075, 0.9175, 0.51]
    runs = pd.read_csv(written / "runs.csv", keep_default_na=False, na_values=[""])
    assert len(runs) == 16
    assert runs["id"].is_unique
    # The table of another machine's report can be computed again from its runs.
    finished = runs[runs["status"] == FINISHED]
    again = finished.groupby(["optimizer", "learning_rate"], sort=False, dropna=False)["score"].mean()
    assert list(again.round(4)) == list(cells["score"].round(4))
    assert finished["machine"].str.contains("cores, .* GiB of RAM").all()
    assert set(runs[runs["status"] == FAILED]["reason"]) == {"killed by SIGKILL | (out of memory?)"}
    curves = pd.read_csv(written / "curves.csv")
    salsa = curves[
        (curves["optimizer"] == "SaLSA") & (curves["name"] == "val/accuracy") & (curves["against"] == "step")
    ]
    assert list(salsa["x"]) == [5, 10]
    assert list(salsa["n"]) == [4, 4]


def test_a_run_is_told_with_the_commit_of_its_code(study: Study, tmp_path: Path) -> None:
    runs, results = made_up_results(study, tmp_path)
    told, untold = runs[0].id, runs[1].id
    results[told] = dataclasses.replace(results[told], machine={"commit": "abc-dirty"})
    results[untold] = dataclasses.replace(results[untold], machine={})
    commits = runs_frame(study, runs, results).set_index("id")["commit"]
    assert (commits[told], commits[untold]) == ("abc-dirty", "")


def test_a_study_half_done_is_reported_with_what_is_missing(study: Study, tmp_path: Path) -> None:
    runs, results = made_up_results(study, tmp_path)
    half = {run.id: results[run.id] for run in runs[:6]}
    report = write_report(study, runs, half, tmp_path, tmp_path / "report").read_text()
    assert "6 runs finished, 0 failed, 10 missing" in report
    assert "Failed runs" not in report


def history(places: list[tuple[int, float]], values: list[float]) -> dict[str, list[tuple[int, float, float]]]:
    return {"val/loss": [(step, second, value) for (step, second), value in zip(places, values, strict=True)]}


def test_runs_recorded_at_the_same_steps_are_averaged_there() -> None:
    runs = [history([(1, 1.0), (2, 2.0)], [1.0, 3.0]), history([(1, 2.0), (2, 4.0)], [3.0, 5.0])]
    by_step, by_second = mean_curve(runs, "val/loss", "step"), mean_curve(runs, "val/loss", "seconds")
    assert list(by_step["x"]) == [1, 2]
    assert list(by_step["mean"]) == [2.0, 4.0]
    assert list(by_step["se"]) == pytest.approx([1.0, 1.0])
    assert list(by_second["x"]) == [1.5, 3.0]


def test_runs_recorded_elsewhere_are_interpolated_where_all_have_values() -> None:
    runs = [history([(1, 1.0), (5, 5.0)], [0.0, 4.0]), history([(2, 2.0), (4, 4.0)], [2.0, 4.0])]
    curve = mean_curve(runs, "val/loss", "step")
    assert (curve["x"].min(), curve["x"].max()) == (2, 4)
    assert curve["mean"].iloc[0] == pytest.approx((1.0 + 2.0) / 2)
    assert curve["mean"].iloc[-1] == pytest.approx((3.0 + 4.0) / 2)


def test_a_single_run_has_no_band_and_no_runs_no_curve() -> None:
    curve = mean_curve([history([(1, 1.0)], [1.0])], "val/loss", "step")
    assert math.isnan(curve["se"].iloc[0])
    assert mean_curve([{}], "val/loss", "step").empty
