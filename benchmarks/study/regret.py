"""Regret of methods against the best of a grid of learning rates, over settings and seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy import stats

from benchmarks.study.definition import RegretOptions
from benchmarks.study.results import FAILED, Result, lower_is_better
from benchmarks.study.statistics import MISSING, SIGNIFICANCE

RESAMPLES = 5000
CONFIDENCE = 0.95
# Values of a run by column, each with its name among the results of the last line search.
SEARCHED = {
    "trained": "loss_as_trained",
    "calibrated": "loss_calibrated",
    "searched": "loss",
    "searched_calibrated": "loss_interpolated_calibrated",
}
OF_MORE = ("score", "trained_score", "searched_score")  # better where larger
COMPARED = ("loss", *OF_MORE, *SEARCHED)


def regret_frame(
    runs: pd.DataFrame, results: Mapping[str, Result], options: RegretOptions, axes: Sequence[str]
) -> pd.DataFrame:
    """Return a table with one row per run whose grid is complete: its values and their regrets.

    The reference of a setting is the learning rate of the grid with the best mean over the seeds that all rates have a
    result for; one rate per setting and kind of value. A regret is the value minus that rate's value of the same seed,
    with the sign that makes positive ones worse. A failed run has an infinite loss. Beside the methods stands the
    reference for the loss, as the best of the grid, at the cost of all rates; and so does the best of any other method
    that was run at several rates, for the seeds that have all of them.

    Args:
        runs: Rows of `statistics.runs_frame`.
        results: Results by run id.
        options: What is a setting, and what the grid.
        axes: The study's axes.

    Returns:
        Columns: ``method``, ``setting``, ``seed``, ``tuned`` (of a run at one of several rates, the method without the
        rate), ``is_grid``, ``is_best`` (a row that stands for the best of several), ``unseen`` (the setting chose no
        constant), ``failed``, ``learned``, ``not_learned`` (where the reference for the loss has), ``last_minus_best``,
        ``alpha`` (of the last line search), ``cost`` (processor seconds over those of a run of the grid, on average),
        the values of `COMPARED`, each of their regrets as ``<value>_regret``, and ``relative_regret``, that of the loss
        over the reference's loss.
    """
    frame = _values(runs, results, options, axes)
    parts = []
    for _, of_setting in frame.groupby("setting", sort=False):
        complete = _complete(of_setting[of_setting["is_grid"]])
        of_seeds = of_setting[of_setting["seed"].isin(complete["seed"])]
        if not complete.empty:
            tuned = [_complete(rows) for name, rows in of_seeds.groupby("tuned", sort=False) if name]
            bests = [_best(rows) for rows in tuned if not rows.empty]
            parts.append(_with_regrets(pd.concat([of_seeds[~of_seeds["missing"]], *bests], ignore_index=True)))
    if not parts:
        return frame.iloc[:0]
    return pd.concat(parts, ignore_index=True).drop(columns="missing")


def _values(
    runs: pd.DataFrame, results: Mapping[str, Result], options: RegretOptions, axes: Sequence[str]
) -> pd.DataFrame:
    others = [axis for axis in axes if axis != options.settings]
    records = runs.to_dict("records")
    of_grid = [run for run in records if options.grid in [run[axis] for axis in others]]
    rates = {axis for run in of_grid for axis in others if run[axis] not in ("", options.grid)}
    rows = []
    for run in records:
        result = results.get(run["id"])
        failed = run["status"] == FAILED
        searched = result.interpolation if result is not None and not failed else {}
        metric = run["metric"].partition("/")[2]
        losses = {"loss": run["best_loss"], **{key: searched.get(name, math.nan) for key, name in SEARCHED.items()}}
        scores = {
            "score": run["best"],
            "trained_score": searched.get(f"{metric}_as_trained", math.nan),
            "searched_score": searched.get(metric, math.nan),
        }
        sign = -1.0 if lower_is_better(run["metric"]) else 1.0
        rows.append(
            {
                "method": " · ".join(run[axis] for axis in others if run[axis]),
                "setting": run[options.settings],
                "seed": run["seed"],
                "id": run["id"],
                "tuned": " · ".join(run[axis] for axis in others if run[axis] and axis not in rates)
                if any(run[axis] for axis in rates)
                else "",
                "is_grid": options.grid in [run[axis] for axis in others],
                "is_best": False,
                "unseen": run[options.settings] not in options.chose_constants,
                "missing": run["status"] == MISSING,
                "failed": failed,
                "learned": run["learned"],
                "last_minus_best": run["final_loss"] - run["best_loss"],
                "alpha": searched.get("alpha", math.nan),
                "seconds": math.nan if result is None or result.processor_seconds is None else result.processor_seconds,
                **(dict.fromkeys(losses, math.inf) if failed else losses),
                **(dict.fromkeys(scores, -math.inf) if failed else {key: sign * v for key, v in scores.items()}),
            }
        )
    return pd.DataFrame(rows)


def _complete(tuned: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of those seeds that have a result for all rates."""
    missing = tuned.groupby("seed")["missing"].transform("sum")
    return tuned[missing == 0]


def _best(tuned: pd.DataFrame) -> pd.DataFrame:
    """Return rows of the best of several rates, at the cost of all."""
    best = tuned[tuned["method"] == best_rate(tuned, "loss")]
    return best.assign(
        method=best["tuned"] + f", best of {tuned['method'].nunique()}",
        tuned="",
        is_grid=False,
        is_best=True,
        seconds=best["seed"].map(tuned.groupby("seed")["seconds"].sum()),
    )


def _with_regrets(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of one setting with their regrets and cost."""
    found = rows.copy()
    grid = rows[rows["is_grid"]]
    found["cost"] = found["seconds"] / found["seed"].map(grid.groupby("seed")["seconds"].mean())
    for name in COMPARED:
        rate = best_rate(grid, name)
        reference = grid[grid["method"] == rate].set_index("seed")[name]
        sign = -1.0 if name in OF_MORE else 1.0
        found[f"{name}_regret"] = sign * (found[name] - found["seed"].map(reference))
        if name == "loss":
            found["relative_regret"] = found["loss_regret"] / found["seed"].map(reference)
    best_learned = grid[grid["method"] == best_rate(grid, "loss")].set_index("seed")["learned"]
    # Neither is a bool everywhere: None where nothing tells, and not there for a seed without a grid.
    found["not_learned"] = found["learned"].eq(False) & found["seed"].map(best_learned).eq(True)
    return found


def best_rate(grid: pd.DataFrame, name: str) -> str:
    """Return the method of a setting's grid with the best mean of a value over seeds."""
    means = grid.groupby("method", sort=False)[name].mean()
    known = means.dropna()
    if known.empty:
        return str(means.index[0])
    return str(known.idxmax() if name in OF_MORE else known.idxmin())


def summarize(frame: pd.DataFrame, name: str) -> pd.DataFrame:
    """Return the regrets of every method over settings, each the mean over its seeds.

    Args:
        frame: Rows of `regret_frame`.
        name: One of `COMPARED`.

    Returns:
        By method: ``settings``, ``runs``, ``mean`` with its bootstrap interval ``low`` to ``high``, ``median`` likewise
        (``median_low``, ``median_high``), ``worst`` and ``worst_setting``, ``below`` (settings with a negative regret).
        Failed runs count for ``worst`` alone, which is infinite then.
    """
    rows = {}
    for method, group in frame.groupby("method", sort=False):
        values = group[["setting", f"{name}_regret"]].dropna()
        finite = values[np.isfinite(values[f"{name}_regret"])]
        of_settings = [part[f"{name}_regret"].to_numpy() for _, part in finite.groupby("setting", sort=False)]
        means = values.groupby("setting", sort=False)[f"{name}_regret"].mean()
        if not of_settings:
            continue
        centres = np.array([part.mean() for part in of_settings])
        drawn = bootstrap(of_settings)
        rows[method] = {
            "settings": len(of_settings),
            "runs": len(values),
            "mean": centres.mean(),
            **dict(zip(("low", "high"), _interval(drawn.mean(axis=1)), strict=True)),
            "median": float(np.median(centres)),
            **dict(zip(("median_low", "median_high"), _interval(np.median(drawn, axis=1)), strict=True)),
            "worst": float(means.max()),
            "worst_setting": means.idxmax(),
            "below": int((means < 0).sum()),
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def bootstrap(of_settings: Sequence[np.ndarray], resamples: int = RESAMPLES) -> np.ndarray:
    """Draw settings with replacement, and within each drawn one its seeds with replacement.

    Args:
        of_settings: For every setting the values of its seeds.
        resamples: How often.

    Returns:
        Means over seeds, of shape (resamples, settings).
    """
    generator = np.random.default_rng(0)
    count = len(of_settings)
    of_each = [
        # As many draws of every setting as there are places that it may fill.
        values[generator.integers(len(values), size=(resamples, count, len(values)))].mean(axis=2)
        for values in of_settings
    ]
    chosen = generator.integers(count, size=(resamples, count))
    return np.stack(of_each)[chosen, np.arange(resamples)[:, None], np.arange(count)[None, :]]


def _interval(draws: np.ndarray) -> tuple[float, float]:
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(draws, (tail, 1 - tail))
    return float(low), float(high)


def losses_by_setting(frame: pd.DataFrame) -> pd.DataFrame:
    """Return mean losses over seeds, a row per setting and a column per method, of what can be compared.

    Methods that have no run in the setting that most methods have are left out, then settings that one of the others
    lacks. Failed runs are infinite.
    """
    table = frame.pivot_table(index="setting", columns="method", values="loss", aggfunc="mean", sort=False)
    if table.empty:
        return table
    fullest = table.notna().sum(axis=1).idxmax()
    return table.loc[:, table.loc[fullest].notna()].dropna(axis=0)


def performance_profile(losses: pd.DataFrame) -> pd.DataFrame:
    """Return the ratio of every loss to the best one of its setting: what a profile counts below τ."""
    return losses.div(losses.min(axis=1), axis=0)


def average_ranks(losses: pd.DataFrame) -> tuple[pd.Series, float, float]:
    """Return the mean rank of every method over settings, Friedman's p-value and Nemenyi's critical difference.

    Two methods whose mean ranks are nearer than the critical difference do not differ (Demšar 2006, JMLR 7). Both
    numbers are NaN for fewer than three methods or two settings.
    """
    ranks = losses.rank(axis=1, method="average")
    settings, methods = losses.shape
    if methods < 3 or settings < 2:
        return ranks.mean(), math.nan, math.nan
    p_value = float(stats.friedmanchisquare(*(losses[method].to_numpy() for method in losses)).pvalue)
    quantile = stats.studentized_range.ppf(1 - SIGNIFICANCE, methods, math.inf) / math.sqrt(2)
    return ranks.mean(), p_value, float(quantile * math.sqrt(methods * (methods + 1) / (6 * settings)))
