"""Report of a study: ``report.md`` with its tables, figures and CSV files."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks import markdown
from benchmarks.study import figures
from benchmarks.study.curves import History, evaluations_per_step, load_histories, mean_curve
from benchmarks.study.definition import Published, Study, label_of
from benchmarks.study.estimate import duration, number_of
from benchmarks.study.grid import Run
from benchmarks.study.regret import regret_frame
from benchmarks.study.regret_report import write_regret
from benchmarks.study.results import FAILED, FINISHED, Result
from benchmarks.study.statistics import (
    FEWEST_SEEDS,
    MISSING,
    SIGNIFICANCE,
    baseline_name,
    best_cell,
    cells_frame,
    compare_with_best,
    group_by_labels,
    is_significantly_best,
    runs_frame,
    tuning_frame,
)

HOW_TO_READ = (
    "Scores are those of the {counted} validation of a run, as mean ± one standard error over seeds. All seeds of a "
    "row draw on the same training examples and are scored on the same validation examples, also where these are a "
    "part of the task (`data.max_train_samples`, `data.max_eval_samples`, chosen by `data.sample_seed`): neither ± nor "
    "*p* covers what other examples would change. The best mean of a table is **bold** only where it differs from "
    "every other row by more than chance: paired t-tests over seeds "
    f"between all pairs of rows, Holm-corrected, p < {SIGNIFICANCE:g}. *p* is the corrected p-value of the difference "
    f"to the best row; there is none (—) below {FEWEST_SEEDS} seeds in common, and none where the difference is the "
    "same for every seed, which leaves no spread to test against. *failed* counts runs that crashed, diverged or ended "
    "without a finite score; they enter no mean. *seconds* are seconds of training: validation does not count."
)


def write_report(study: Study, runs: Sequence[Run], results: Mapping[str, Result], output: Path, folder: Path) -> Path:
    """Write the report of a study from the runs that have a result.

    The report names the commit of its runs, and says so where they are of several, of one with uncommitted changes, or
    of an unknown one.

    Args:
        study: The study.
        runs: All runs of its grid.
        results: Results by run id; runs without one are reported as missing.
        output: The study's folder, which holds the runs' histories.
        folder: Folder of the report: ``report.md`` with its figures, ``runs.csv`` with every run of the grid, from
            which the tables can be computed again, ``cells.csv`` and ``curves.csv``; of a study with ``report.regret``
            also ``regret.md``, that section alone, and ``regret.csv``. Existing files are replaced.

    Returns:
        The path of ``report.md``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    frame = runs_frame(study, runs, results)
    axes = study.axis_names()
    cells = cells_frame(frame, axes)
    histories = load_histories(runs, results, output)
    of_cell = {cell: [histories[id] for id in group["id"] if id in histories] for cell, group in frame.groupby("cell")}
    cells["evaluations"] = [evaluations_per_step(of_cell[cell]) for cell in cells["cell"]]

    regret, options = "", study.report.regret
    if options is not None:
        of_regret = regret_frame(frame, results, options, axes)
        regret = write_regret(of_regret, options, frame, code_version(frame), folder)
    writer = _Writer(study, frame, cells, of_cell, folder)
    sections = [writer.head(), regret, *writer.tables(), writer.tuning(), writer.published(), writer.failures()]
    cells.to_csv(folder / "cells.csv", index=False, float_format="%.6g")
    frame.drop(columns="cell").to_csv(folder / "runs.csv", index=False, float_format="%.6g")
    writer.curves().to_csv(folder / "curves.csv", index=False, float_format="%.6g")
    path = folder / "report.md"
    path.write_text("\n\n".join(section for section in sections if section) + "\n", encoding="utf-8")
    return path


def code_version(runs: pd.DataFrame) -> str:
    """Say which version of the code the finished runs are of, and whether it is one that can be checked out.

    Args:
        runs: Rows of `statistics.runs_frame`.
    """
    commits = Counter(_finished(runs)["commit"])
    if len(commits) == 1:
        (commit,) = commits
        if not commit:
            return "code: **unknown version**, no run recorded its commit"
        if commit.endswith("-dirty"):
            return f"code: **uncommitted changes**, all runs at commit {commit}"
        return f"code: all runs at commit {commit}, one version of the code"
    counts = (f"{number_of(n, 'run')} at {commit or 'an unknown commit'}" for commit, n in commits.items())
    return f"code: **not one version**, {', '.join(counts)}; `--again '*'` repeats all runs"


class _Writer:
    """Writes the sections of one report and the figures that they link."""

    def __init__(
        self,
        study: Study,
        runs: pd.DataFrame,
        cells: pd.DataFrame,
        histories: Mapping[int, Sequence[History]],
        folder: Path,
    ) -> None:
        self.study = study
        self.runs = runs
        self.cells = cells
        self.histories = histories
        self.folder = folder
        self.axes = study.axis_names()
        self.row_axes = [axis for axis in self.axes if axis != study.report.tables_by]
        self.cells["p_best"] = math.nan

    # Sections

    def head(self) -> str:
        study = self.study
        lines = [f"# {study.title}"]
        if study.description:
            lines.append(study.description)
        status = self.runs["status"].value_counts()
        facts = [
            f"{number_of(len(self.cells), 'cell')}, {number_of(len(study.seeds), 'seed')} each; "
            f"{status.get(FINISHED, 0)} runs finished, {status.get(FAILED, 0)} failed, "
            f"{status.get(MISSING, 0)} missing",
            f"seconds of training, all runs together: {duration(self.runs['train_seconds'].sum())}",
            f"written {datetime.now(UTC):%Y-%m-%d} by `{self._command()}`",
            *(f"machine: {machine}" for machine in sorted(set(_finished(self.runs)["machine"]))),
            code_version(self.runs),
        ]
        lines.append("\n".join(f"- {fact}" for fact in facts))
        lines.append(HOW_TO_READ.format(counted="last" if study.report.primary == "final" else "best"))
        return "\n\n".join(lines)

    def tables(self) -> list[str]:
        by = self.study.report.tables_by
        if by is None:
            return [self._table(self.cells, None)]
        return [self._table(group, str(label)) for label, group in self.cells.groupby(by, sort=False)]

    def tuning(self) -> str:
        tune_over = self.study.report.tune_over
        if tune_over is None:
            return ""
        parts = [
            "## What a score costs, tuning counted",
            f"A method with a {_short(tune_over)} to choose is tried with several values. Its score is that of the "
            "best of these values, on average over all ways to choose that many; *seconds* is the training time of all "
            "tries together.",
        ]
        by = self.study.report.tables_by
        groups = [(None, self.runs)] if by is None else list(self.runs.groupby(by, sort=False))
        tables = []
        for label, group in groups:
            tuned = tuning_frame(group, self.axes, tune_over)
            others = [axis for axis in self.row_axes if axis != tune_over]
            by_method = {self._label(labels, others): table for labels, table in group_by_labels(tuned, others)}
            metric = group["metric"].iloc[0]
            figure = figures.save(figures.tuning(by_method, metric), self.folder, _file_name("tuning", label))
            rows = [
                {
                    "method": method,
                    "values tried": f"{row['tries']} of {row['of']}" if row["of"] > 1 else "none to try",
                    "seconds": _number(row["seconds"], 3),
                    metric: _mean(row["score"], row["score_se"]),
                    "n": str(row["n"]),
                }
                for method, table in by_method.items()
                for row in table.to_dict("records")
            ]
            if label is not None:
                parts.append(f"### {label}")
            parts += [markdown.table_of(rows), f"![score against seconds of training, tuning counted]({figure})"]
            tables.append(tuned)
        pd.concat(tables).to_csv(self.folder / "tuning.csv", index=False, float_format="%.6g")
        return "\n\n".join(parts)

    def published(self) -> str:
        if not self.study.published:
            return ""
        parts = ["## Published numbers beside ours"]
        for source in self.study.published:
            rows = [self._published_row(source, row) for row in source.rows]
            parts.append(f"{source.source}: {source.measure}." + (f" {source.note}" if source.note else ""))
            parts.append(markdown.table_of(rows))
        return "\n\n".join(parts)

    def failures(self) -> str:
        failed = self.runs[self.runs["status"] == FAILED]
        if failed.empty:
            return ""
        rows = [
            {"run": self._label(row, self.axes) + f" · seed {row['seed']}", "id": row["id"], "reason": row["reason"]}
            for _, row in failed.iterrows()
        ]
        return "## Failed runs\n\n" + markdown.table_of(rows)

    def curves(self) -> pd.DataFrame:
        tables = []
        for _, cell in self.cells.iterrows():
            for name in dict.fromkeys(("train/loss", "val/loss", cell["metric"])):
                for against in ("step", "seconds"):
                    curve = mean_curve(self.histories[cell["cell"]], name, against)
                    labels = {axis: cell[axis] for axis in self.axes}
                    tables.append(curve.assign(**labels, name=name, against=against))
        return pd.concat(tables)[[*self.axes, "name", "against", "x", "mean", "se", "n"]]

    # Parts of sections

    def _table(self, cells: pd.DataFrame, label: str | None) -> str:
        runs = self.runs[self.runs["cell"].isin(cells["cell"])]
        metric = cells["metric"].iloc[0]
        p_best = compare_with_best(runs)
        self.cells.loc[cells.index, "p_best"] = cells["cell"].map(p_best)
        best, significant = best_cell(runs), is_significantly_best(p_best)
        name = metric.partition("/")[2]
        rows = []
        for _, cell in cells.iterrows():
            bold = significant and cell["cell"] == best
            score = {"final": f"{name}, last", "best": f"{name}, best"}
            shown = {key: _mean(cell[key], cell[f"{key}_se"]) for key in score}
            primary = self.study.report.primary
            shown[primary] = f"**{shown[primary]}**" if bold else shown[primary]
            row = {_short(axis): cell[axis] or "—" for axis in self.row_axes if (cells[axis] != "").any()}
            row |= {score[key]: shown[key] for key in score}
            if name != "loss":
                row["val loss, last"] = _mean(cell["final_loss"], cell["final_loss_se"])
                row["val loss, best"] = _mean(cell["best_loss"], cell["best_loss_se"])
            row |= {
                "p": "best" if cell["cell"] == best else _p_value(p_best[cell["cell"]]),
                "n": str(cell["n"]),
                "failed": str(cell["failed"]),
                "steps": _number(cell["steps"], 4),
                "ms per step": _number(cell["seconds_per_step"] * 1000, 3),
                "trials per step": _number(cell["evaluations"], 3),
                "MiB": _number(cell["peak_memory_mib"], 4),
                "seconds": _number(cell["train_seconds"], 3),
            }
            if self.study.report.stability and cell["judged"]:
                row["not above baseline"] = f"{cell['not_learned']} of {cell['judged']}"
            rows.append(row)
        budgets = ", ".join(dict.fromkeys(cells["budget"]))
        judged = f"Judged by {metric}{self._baseline(cells)}. Every run: {budgets}."
        parts = [f"## {label or 'Results'}", judged, markdown.table_of(rows)]
        return "\n\n".join([*parts, *self._figures(cells, runs, label)])

    def _figures(self, cells: pd.DataFrame, runs: pd.DataFrame, label: str | None) -> list[str]:
        labels = {cell["cell"]: self._label(cell, self.row_axes) for _, cell in cells.iterrows()}
        series = [
            figures.Series(labels[cell["cell"]], cell["metric"], self.histories[cell["cell"]])
            for _, cell in cells.iterrows()
            if self.histories[cell["cell"]]
        ]
        if not series:
            return []
        saved = []

        def add(kind: str, figure: Any, text: str) -> None:
            saved.append(f"![{text}]({figures.save(figure, self.folder, _file_name(kind, label))})")

        add("curves", figures.learning_curves(series), "learning curves against steps and seconds of training")
        if self.study.report.stability:
            figure = figures.distribution(runs, labels, cells["metric"].iloc[0])
            add("distribution", figure, "distribution of the score over seeds")
        sizes = figures.step_sizes(series)
        if sizes is not None:
            add("step_sizes", sizes, "step sizes over time, of the methods whose step size changes")
        measured = cells[cells["n"] > 0]
        add("costs", figures.costs(measured, [labels[c] for c in measured["cell"]]), "time per step and peak memory")
        return saved

    def _published_row(self, source: Published, row: Mapping[str, Any]) -> dict[str, str]:
        labels = {axis: label_of(row[axis]) for axis in self.axes if axis in row}
        matching = self.cells
        for axis, label in labels.items():
            matching = matching[matching[axis] == label]
        done = matching[matching["n"] > 0]
        ours = "not run" if labels else "—"
        if labels and len(done):
            ours = _ours(done.iloc[0], source.ours) if len(matching) == 1 else f"{len(matching)} rows above"
        what = {"what": str(row["what"])} if "what" in row else {}
        return (
            what
            | {_short(a): labels.get(a, "—") for a in self.axes if a in labels}
            | {
                "published": _number(row["value"], 4),
                "ours": ours,
            }
        )

    def _baseline(self, cells: pd.DataFrame) -> str:
        score = cells["chance"].mean()
        if not math.isfinite(score):
            return ""
        return f"; {baseline_name(cells['metric'].iloc[0])} scores {score:.3f}"

    def _command(self) -> str:
        study = self.study
        variant = study.name.removeprefix(study.path.stem).removeprefix("-")
        return f"python -m benchmarks.study {_short_path(study.path)}" + (f" --variant {variant}" if variant else "")

    def _label(self, row: Mapping[str, Any], axes: Sequence[str]) -> str:
        return " · ".join(str(row[axis]) for axis in axes if row[axis] != "") or "all"


def _finished(runs: pd.DataFrame) -> pd.DataFrame:
    return runs[runs["status"] == FINISHED]


def _mean(mean: float, se: float) -> str:
    if not math.isfinite(mean):
        return "—"
    return f"{mean:.3f} ± {se:.3f}" if math.isfinite(se) else f"{mean:.3f}"


def _ours(cell: pd.Series, column: str) -> str:
    if column in ("score", "final", "best"):
        return f"{_mean(cell[column], cell[f'{column}_se'])} ({cell['metric'].partition('/')[2]}, n = {cell['n']})"
    return f"{_number(cell[column], 4)} (n = {cell['n']})"


def _number(value: float, digits: int) -> str:
    if not math.isfinite(value):
        return "—"
    return f"{value:.0f}" if abs(value) >= 10**digits else f"{value:.{digits}g}"


def _p_value(p: float) -> str:
    if math.isnan(p):
        return "—"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _short(axis: str) -> str:
    return axis.rpartition(".")[2].replace("_", " ")


def _short_path(path: Path) -> str:
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return path.name


def _file_name(kind: str, label: str | None) -> str:
    return kind if label is None else f"{kind}_{''.join(c if c.isalnum() else '_' for c in str(label))}"
