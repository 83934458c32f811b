"""Statistics of a report: means and standard errors per cell, and corrected p-values of their differences."""

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
from benchmarks.study.results import FAILED, Result, lower_is_better

SIGNIFICANCE = 0.05
FEWEST_SEEDS = 3  # for a test: two differences are too few to estimate their spread
SCORE_RESOLUTION = 1e-6  # relative: scores are logged in float32, so that equal differences may differ by rounding
MISSING = "missing"
CORRELATIONS = ("/matthews", "/pearson", "/spearman")
COST_COLUMNS = ("steps", "train_seconds", "seconds_per_step", "peak_memory_mib", "wall_seconds")


def baseline_name(metric: str) -> str:
    """Return what a score is compared with, that of `chance` in `runs_frame`."""
    return "the majority-class baseline" if metric.endswith("/accuracy") else "a constant prediction"


def runs_frame(study: Study, runs: Sequence[Run], results: Mapping[str, Result]) -> pd.DataFrame:
    """Return a table with one row per run of the grid, including those without a result.

    Columns: the axes, ``cell`` (number of the cell in the grid), ``seed``, ``status``, ``reason``, ``metric``,
    ``final`` and ``best`` (of the metric), ``score`` (the one of these that the study compares), ``final_loss`` and
    ``best_loss`` (validation), ``chance`` (the score of a constant prediction: the majority-class baseline for
    accuracy, 0 for correlations), ``learned`` (whether the accuracy or correlation is above that), the costs,
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
    """Return a table with one row per cell, in the order of the grid: mean and standard error of every number.

    ``n`` counts the runs that enter the mean, ``failed`` those that crashed, diverged or ended without a finite score,
    ``not_learned`` those at or below the score of a constant prediction, out of ``judged``.
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
            row[f"{number}_se"] = finite[number].sem()
        rows.append(row)
    return pd.DataFrame(rows)


def compare_with_best(runs: pd.DataFrame) -> pd.Series:
    """Return the corrected p-value of the difference between each cell of a table and the best one.

    The best cell is that with the best mean score. All pairs of cells are compared by a paired t-test over the seeds
    that both have, and Holm's procedure corrects for all of these comparisons: the best cell was chosen by the same
    scores, so that correcting only for the comparisons with it would be too optimistic. The p-value is NaN for the best
    cell itself and where `paired_p_value` is.

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
    """Return the number of the cell with the best mean score, ``None`` if no score is finite."""
    means = runs[np.isfinite(runs["score"])].groupby("cell")["score"].mean()
    if means.empty:
        return None
    return int(means.idxmin() if lower_is_better(runs["metric"].iloc[0]) else means.idxmax())


def is_significantly_best(p_best: pd.Series) -> bool:
    """Return whether the best cell differs significantly from every other cell of its table."""
    others = p_best.dropna()
    return len(others) == len(p_best) - 1 > 0 and bool((others < SIGNIFICANCE).all())


def paired_p_value(a: pd.Series, b: pd.Series) -> float:
    """Return the two-sided p-value of a paired t-test over the rows that both have.

    It is NaN for fewer than `FEWEST_SEEDS` such rows, and where all differences are equal but not 0: scores on a few
    hundred examples are so coarse that this happens by chance, and without spread the t statistic is infinite. It is 1
    where all differences are 0.
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
    """Apply Holm's step-down correction; NaN stays NaN and is not counted as a comparison."""
    tested = sorted((p, i) for i, p in enumerate(p_values) if not math.isnan(p))
    corrected = [math.nan] * len(p_values)
    running = 0.0
    for rank, (p, i) in enumerate(tested):
        running = max(running, min(1.0, (len(tested) - rank) * p))
        corrected[i] = running
    return corrected


def expected_best(scores: Sequence[float], tries: int, lower_is_better: bool = False) -> float:
    """Return the mean of the best score over all choices of ``tries`` of ``scores``, without repetition.

    This is the expected score of the best of that many values of a hyperparameter, chosen at random.
    """
    ordered = sorted(scores, reverse=lower_is_better)
    ways = math.comb(len(ordered), tries)
    return sum(score * math.comb(i, tries - 1) for i, score in enumerate(ordered)) / ways


def group_by_labels(frame: pd.DataFrame, axes: Sequence[str]) -> list[tuple[dict[str, str], pd.DataFrame]]:
    """Group rows by their labels on ``axes``; without axes all rows are one group."""
    if not axes:
        return [({}, frame)]
    return [(dict(zip(axes, labels, strict=True)), group) for labels, group in frame.groupby(list(axes), sort=False)]


def tuning_frame(runs: pd.DataFrame, axes: Sequence[str], tune_over: str) -> pd.DataFrame:
    """Compute the score and the training time of each method when values of one axis have to be tried.

    Cells that differ only in ``tune_over`` are one method. Per seed, its score after ``tries`` values is
    `expected_best` and its cost is ``tries`` times the mean training time of a run. A method without that axis has one
    try.

    Returns:
        One row per method and number of tries: the other axes, ``tries``, ``seconds``, ``score``, each with its
        standard error over seeds, and ``n``. Seeds where a try is missing or failed do not enter.
    """
    others = [axis for axis in axes if axis != tune_over]
    rows = []
    for labels, group in group_by_labels(runs, others):
        table = group.pivot(index="seed", columns="cell", values=["score", "train_seconds"]).dropna()
        members = group["cell"].nunique()
        lower = lower_is_better(group["metric"].iloc[0])
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
                    "score_se": score.sem() if len(table) else math.nan,
                    "seconds": seconds.mean(),
                    "seconds_se": seconds.sem(),
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
            # NaN compares as not above.
            return scores[metric] > chance
    return None
