"""The numbers of a report: means and standard errors per cell, and which differences are more than chance."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from benchmarks.study.definition import Study
from benchmarks.study.grid import Run
from benchmarks.study.results import FAILED, Result

SIGNIFICANCE = 0.05
FEWEST_SEEDS = 3  # for a test: the spread of two differences says next to nothing
SCORE_RESOLUTION = 1e-6  # relative: scores are logged in float32, equal differences of them are not equal to the bit
MISSING = "missing"
CORRELATIONS = ("/matthews", "/pearson", "/spearman")
COST_COLUMNS = ("steps", "train_seconds", "seconds_per_step", "peak_memory_mib", "wall_seconds")


def is_loss(metric: str) -> bool:
    """Whether lower is better."""
    return metric.endswith("loss")


def runs_frame(study: Study, runs: Sequence[Run], results: Mapping[str, Result]) -> pd.DataFrame:
    """One row per run of the grid, those without a result included.

    Columns: the axes, ``cell`` (number of the cell in the grid), ``seed``, ``status``, ``reason``, ``metric``,
    ``final`` and ``best`` (of the metric), ``score`` (the one that the study counts), ``final_loss`` and ``best_loss``
    (validation), ``chance`` (what a model that always answers the same would score, where that is known), ``learned``
    (whether the accuracy is above the share of the most frequent class, or the correlation above 0), the costs,
    ``machine``, and the ``commit`` of the code.
    """
    order = {name: i for i, name in enumerate(dict.fromkeys(run.cell.name for run in runs))}
    rows = []
    for run in runs:
        result = results.get(run.id)
        metric = run.cell.metric
        row: dict[str, Any] = {
            **{axis: run.cell.labels.get(axis, "") for axis in study.axis_names()},
            "cell": order[run.cell.name],
            "seed": run.seed,
            "id": run.id,
            "status": result.status if result else MISSING,
            "reason": result.reason if result else "",
            "metric": metric,
            "budget": str(run.cell.budget),
        }
        finished = result if result is not None and result.status != FAILED else None
        row["final"] = finished.final.get(metric, math.nan) if finished else math.nan
        row["best"] = finished.best.get(metric, math.nan) if finished else math.nan
        row["score"] = row[study.report.primary]
        row["final_loss"] = finished.final.get("val/loss", math.nan) if finished else math.nan
        row["best_loss"] = finished.best.get("val/loss", math.nan) if finished else math.nan
        row["chance"] = _chance(metric, finished)
        row["learned"] = _learned(study.report.primary, finished)
        for column in COST_COLUMNS:
            value = getattr(finished, column) if finished else None
            row[column] = math.nan if value is None else float(value)
        row["machine"] = finished.machine_text() if finished else ""
        row["commit"] = (finished.machine.get("commit") or "") if finished else ""
        rows.append(row)
    return pd.DataFrame(rows)


def cells_frame(runs: pd.DataFrame, axes: Sequence[str]) -> pd.DataFrame:
    """One row per cell: mean and standard error of every number, ``n``, ``failed``, ``not_learned``, and ``p_best``.

    ``n`` counts the runs that enter the mean, ``failed`` those that crashed, diverged or ended without a finite
    score, ``not_learned`` those at or below the most frequent class. Cells stand in the order of the grid.
    """
    numbers = ("score", "final", "best", "final_loss", "best_loss", *COST_COLUMNS)
    rows = []
    for _, group in runs.groupby("cell", sort=True):
        first = group.iloc[0]
        row = {axis: first[axis] for axis in axes} | {
            "cell": first["cell"],
            "metric": first["metric"],
            "budget": first["budget"],
        }
        finite = group[np.isfinite(group["score"])]
        row["n"] = len(finite)
        row["failed"] = int((group["status"] != MISSING).sum()) - len(finite)
        row["missing"] = int((group["status"] == MISSING).sum())
        judged = group["learned"].dropna()
        row["not_learned"] = int((~judged.astype(bool)).sum())
        row["judged"] = len(judged)
        row["chance"] = group["chance"].mean()
        for number in numbers:
            row[number] = finite[number].mean()
            row[f"{number}_se"] = standard_error(finite[number])
        rows.append(row)
    return pd.DataFrame(rows)


def standard_error(values: pd.Series) -> float:
    """Standard error of the mean; not a number below two values."""
    values = values.dropna()
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan


def compare_with_best(runs: pd.DataFrame) -> pd.Series:
    """For every cell of one table, the corrected p-value of its difference to the best cell.

    The best cell is that with the best mean score. All pairs of cells are compared by a paired t-test over the seeds
    that both have, and Holm's procedure corrects for all of these comparisons: the best one was picked after looking,
    so correcting only for the comparisons with it would promise too much. The best cell itself and cells that
    `paired_p_value` cannot judge get no p-value.

    Args:
        runs: Rows of `runs_frame` that stand in one table.

    Returns:
        p-values by cell number.
    """
    scores = runs.pivot(index="seed", columns="cell", values="score")
    scores = scores.where(np.isfinite(scores))
    cells = list(scores.columns)
    p_best = pd.Series(math.nan, index=cells, dtype=float)
    best = best_cell(runs)
    if best is None:
        return p_best
    pairs = list(itertools.combinations(cells, 2))
    corrected = holm([paired_p_value(scores[a], scores[b]) for a, b in pairs])
    for (a, b), p in zip(pairs, corrected, strict=True):
        if best in (a, b):
            p_best[b if a == best else a] = p
    return p_best


def best_cell(runs: pd.DataFrame) -> int | None:
    """Number of the cell with the best mean score; none where no score is finite."""
    means = runs[np.isfinite(runs["score"])].groupby("cell")["score"].mean()
    if means.empty:
        return None
    return int(means.idxmin() if is_loss(runs["metric"].iloc[0]) else means.idxmax())


def is_significantly_best(p_best: pd.Series) -> bool:
    """Whether the best cell differs from every other cell of its table by more than chance."""
    others = p_best.dropna()
    return len(others) == len(p_best) - 1 > 0 and bool((others < SIGNIFICANCE).all())


def paired_p_value(a: pd.Series, b: pd.Series) -> float:
    """Two-sided p-value of a paired t-test over the rows that both have.

    Not a number, no verdict, below `FEWEST_SEEDS` such rows and where all differences are equal: scores on a few
    hundred examples are so coarse that this happens by chance, and without spread the t statistic is infinite. 1 where
    all differences are 0.
    """
    both = pd.concat([a, b], axis=1).dropna()
    if len(both) < FEWEST_SEEDS:
        return math.nan
    differences = both.iloc[:, 0] - both.iloc[:, 1]
    resolution = SCORE_RESOLUTION * both.abs().to_numpy().max()
    if np.ptp(differences) <= resolution:
        return 1.0 if differences.abs().max() <= resolution else math.nan
    return float(stats.ttest_rel(both.iloc[:, 0], both.iloc[:, 1]).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction; a p-value that is not a number stays one and is not counted as a comparison."""
    tested = sorted((p, i) for i, p in enumerate(p_values) if not math.isnan(p))
    corrected = [math.nan] * len(p_values)
    running = 0.0
    for rank, (p, i) in enumerate(tested):
        running = max(running, min(1.0, (len(tested) - rank) * p))
        corrected[i] = running
    return corrected


def expected_best(scores: Sequence[float], tries: int, lower_is_better: bool = False) -> float:
    """Mean over all choices of ``tries`` of ``scores`` (without repetition) of the best one chosen.

    What a person gets who tries that many values of a hyperparameter, in any order, and keeps the best.
    """
    ordered = sorted(scores, reverse=lower_is_better)
    ways = math.comb(len(ordered), tries)
    return sum(score * math.comb(i, tries - 1) for i, score in enumerate(ordered)) / ways


def group_by_labels(frame: pd.DataFrame, axes: Sequence[str]) -> list[tuple[dict[str, str], pd.DataFrame]]:
    """The rows of each combination of labels on ``axes``, with these labels; without axes all rows are one group."""
    if not axes:
        return [({}, frame)]
    return [(dict(zip(axes, labels, strict=True)), group) for labels, group in frame.groupby(list(axes), sort=False)]


def tuning_frame(runs: pd.DataFrame, axes: Sequence[str], tune_over: str) -> pd.DataFrame:
    """What a score costs when the values of one axis have to be tried out.

    Cells that differ in ``tune_over`` alone are one method. Per seed, its score after ``tries`` values is
    `expected_best` and its cost that many times the mean training time of a try. A method without that axis is one try.

    Returns:
        One row per method and number of tries: the other axes, ``tries``, ``seconds``, ``score``, each with its
        standard error over seeds, and ``n``. Seeds where a try is missing or failed do not enter.
    """
    others = [axis for axis in axes if axis != tune_over]
    rows = []
    for labels, group in group_by_labels(runs, others):
        table = group.pivot(index="seed", columns="cell", values=["score", "train_seconds"]).dropna()
        members = group["cell"].nunique()
        lower = is_loss(group["metric"].iloc[0])
        for tries in range(1, members + 1):
            score = table["score"].apply(lambda row, t=tries, lo=lower: expected_best(list(row), t, lo), axis=1)
            seconds = table["train_seconds"].mean(axis=1) * tries
            rows.append(
                {
                    **labels,
                    "tries": tries,
                    "of": members,
                    "n": len(table),
                    "score": score.mean() if len(table) else math.nan,
                    "score_se": standard_error(score) if len(table) else math.nan,
                    "seconds": seconds.mean(),
                    "seconds_se": standard_error(seconds),
                }
            )
    return pd.DataFrame(rows)


def _chance(metric: str, result: Result | None) -> float:
    if result is None or result.majority is None or not metric.endswith("/accuracy"):
        return 0.0 if metric.endswith(CORRELATIONS) else math.nan
    return result.majority


def _learned(primary: str, result: Result | None) -> bool | None:
    if result is None:
        return None
    scores = result.final if primary == "final" else result.best
    for metric in ("val/accuracy", *(name for name in scores if name.endswith(CORRELATIONS))):
        chance = _chance(metric, result)
        if metric in scores and not math.isnan(chance):
            # Anything but above chance is a failure, a score that is not a number too.
            return scores[metric] > chance
    return None
