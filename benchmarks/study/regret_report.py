"""Section of a report about regret: its tables, its figures and one CSV file."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks import markdown
from benchmarks.study import figures
from benchmarks.study.definition import RegretOptions
from benchmarks.study.regret import average_ranks, best_rate, losses_by_setting, summarize
from benchmarks.study.regret_figures import profile_figure, rank_figure, regret_figure
from benchmarks.study.statistics import MISSING

CSV_FILE = "regret.csv"
SECTION_FILE = "regret.md"
HOW_TO_READ = (
    "The regret of a run is its best validation loss above that of the best of the grid's rates, one rate per setting, "
    "at the same seed. Means and medians are over settings, each the mean over its seeds; in brackets 95 % intervals "
    "of a bootstrap over settings and the seeds within them; *worst* is the setting with the largest mean. Squared "
    "errors and cross-entropies are of different sizes: *relative* is the regret in percent of the best rate's loss. "
    "*below* counts settings with a negative regret. Regret in score is in points (a hundredth), against the rate with "
    "the best score. *last above best* is the last loss above the best one of the run. *failed* runs crashed or "
    "diverged: they are in no mean, and make the worst regret infinite; *not learned* ones are at or below a constant "
    "prediction where the best rate is above. *cost* is the processor time of the whole fit, validations and all "
    "tuning counted, over that of one run of the grid. A setting and seed counts once all rates of the grid have a "
    "result for it."
)
HOW_TO_READ_SEARCH = (
    "The last weights of a run, judged on the half of the validation rows that chose nothing: as trained, with a "
    "temperature fitted on the other half, with the last line search on that half, and with both. Every column's "
    "regret is against the best rate of the grid in the same column, so that the grid is searched as well."
)


def write_regret(frame: pd.DataFrame, options: RegretOptions, runs: pd.DataFrame, code: str, folder: Path) -> str:
    """Write the CSV file and the figures, and return the section.

    Args:
        frame: Rows of `regret.regret_frame`.
        options: The study's options.
        runs: All runs of the grid, to say how many of them there are.
        code: The line that says which version of the code the runs are of.
        folder: Folder of the report.
    """
    frame.to_csv(folder / CSV_FILE, index=False, float_format="%.6g")
    done = int((runs["status"] != MISSING).sum())
    if frame.empty:
        text = f"## Regret\n\n{done} of {len(runs)} runs are done; no setting has all rates of the grid yet."
    else:
        text = "\n\n".join(["## Regret", *_sections(frame, options, runs, done, folder)])
    (folder / SECTION_FILE).write_text(f"{text}\n\n- {code}\n", encoding="utf-8")
    return text


def _sections(frame: pd.DataFrame, options: RegretOptions, runs: pd.DataFrame, done: int, folder: Path) -> list[str]:
    of_grid = int(frame["setting"].nunique())
    sections = [
        f"{done} of {len(runs)} runs are done. {of_grid} of {runs[options.settings].nunique()} settings have all rates "
        f"of the grid for at least one of {runs['seed'].nunique()} seeds.",
        HOW_TO_READ,
    ]
    groups = {"Settings that chose no constant": frame[frame["unseen"]], "All settings": frame}
    if not options.chose_constants:
        groups.pop("Settings that chose no constant")
    elif frame["unseen"].all():
        groups.pop("All settings")  # as yet the same
    for title, group in groups.items():
        if group.empty:
            continue
        name = "unseen" if title != "All settings" else "all"
        sections += [f"### {title}", _table(group)]
        if group["searched"].notna().any():
            sections += [f"#### {title}: the last line search", HOW_TO_READ_SEARCH, _search_table(group)]
        sections += _figures(group, name, folder)
    return [*sections, "### Settings", _settings_table(frame), "### Regret in loss by setting", _by_setting(frame)]


def _table(frame: pd.DataFrame) -> str:
    loss, score = summarize(frame, "loss"), summarize(frame, "score")
    shared = losses_by_setting(frame).index
    of_shared = frame[frame["setting"].isin(shared)]
    rows = []
    for method, row in loss.sort_values("mean").iterrows():
        group = frame[frame["method"] == method]
        rows.append(
            {
                "method": str(method),
                "settings": str(row["settings"]),
                "runs": str(row["runs"]),
                "regret in loss, mean": _with_interval(row, "mean", "low", "high"),
                "median": _with_interval(row, "median", "median_low", "median_high"),
                "worst": _worst(row),
                f"mean, settings of all methods ({len(shared)})": _number(
                    _mean_over_settings(of_shared[of_shared["method"] == method], "loss_regret")
                ),
                "relative, mean": _percent(_mean_over_settings(group, "relative_regret")),
                "below": f"{row['below']} of {row['settings']}",
                "regret in score, mean": _points(score, method, "mean"),
                "worst score": _points(score, method, "worst"),
                "last above best, mean": _number(_mean_over_settings(group, "last_minus_best")),
                "largest": _number(group["last_minus_best"].max()),
                "failed": str(int(group["failed"].sum())),
                "not learned": str(int(group["not_learned"].sum())),
                "cost": _number(_mean_over_settings(group, "cost"), 2),
            }
        )
    return markdown.table_of(rows)


def _search_table(frame: pd.DataFrame) -> str:
    columns = {
        "as trained": "trained",
        "temperature": "calibrated",
        "last search": "searched",
        "last search and temperature": "searched_calibrated",
    }
    found = {name: summarize(frame, name) for name in columns.values()}
    scores = {name: summarize(frame, name) for name in ("trained_score", "searched_score")}
    rows = []
    for method, searched in found["searched"].sort_values("mean").iterrows():
        group = frame[frame["method"] == method]
        gained = group.assign(gain=group["trained"] - group["searched"])
        row = {"method": str(method), "alpha, mean": _number(_mean_over_settings(group, "alpha"), 2)}
        for title, name in columns.items():
            has = not found[name].empty and method in found[name].index
            row[f"regret, {title}"] = _with_interval(found[name].loc[method], "mean", "low", "high") if has else "—"
        row |= {
            "worst, last search": _worst(searched),
            "gain in loss": _number(_mean_over_settings(gained, "gain")),
            "score, as trained": _points(scores["trained_score"], method, "mean"),
            "score, last search": _points(scores["searched_score"], method, "mean"),
        }
        rows.append(row)
    return markdown.table_of(rows)


def _settings_table(frame: pd.DataFrame) -> str:
    rows = []
    for setting, group in frame.groupby("setting", sort=False):
        grid = group[group["is_grid"]]
        rates, best = list(grid["method"].unique()), best_rate(grid, "loss")
        values = grid[grid["method"] == best]
        rows.append(
            {
                "setting": str(setting),
                "chose constants": "no" if group["unseen"].iloc[0] else "yes",
                "seeds": str(grid["seed"].nunique()),
                "methods": str(group["method"].nunique()),
                "best rate": best + (" (the grid's edge)" if best in (rates[0], rates[-1]) else ""),
                "its loss": _number(values["loss"].mean()),
                "its score": _number(values["score"].mean()),
            }
        )
    return markdown.table_of(rows)


def _by_setting(frame: pd.DataFrame) -> str:
    regrets = frame.groupby(["setting", "method"], sort=False)["loss_regret"].mean().unstack()
    rows = [{"setting": str(setting)} | row.map(_number).to_dict() for setting, row in regrets.iterrows()]
    return markdown.table_of(rows)


def _figures(frame: pd.DataFrame, name: str, folder: Path) -> list[str]:
    regrets = figures.save(regret_figure(frame), folder, f"regret_{name}")
    shown = [f"![regret of each method in every setting, and its mean]({regrets})"]
    return [*shown, *_comparison(frame, name, folder)]


def _comparison(frame: pd.DataFrame, name: str, folder: Path) -> list[str]:
    losses = losses_by_setting(frame)
    if losses.shape[0] < 2 or losses.shape[1] < 2:
        return []
    profile = figures.save(profile_figure(losses), folder, f"profile_{name}")
    ranks, p_value, difference = average_ranks(losses_by_setting(frame[~frame["is_best"]]))
    rank = figures.save(rank_figure(ranks, difference), folder, f"ranks_{name}")
    p_text = "" if math.isnan(p_value) else f" Friedman's test that all methods are alike: p = {p_value:.2g}."
    return [
        f"Of {losses.shape[0]} settings that {losses.shape[1]} methods share: the share of settings in which a "
        "method's loss is within a factor τ of the best one, and mean ranks by loss with Nemenyi's critical difference "
        f"({_number(difference, 2)}).{p_text}",
        f"![share of settings within a factor of the best loss]({profile})",
        f"![mean ranks with the critical difference]({rank})",
    ]


def _mean_over_settings(group: pd.DataFrame, name: str) -> float:
    finite = group[np.isfinite(group[name].astype(float))]
    return float(finite.groupby("setting")[name].mean().mean()) if len(finite) else math.nan


def _with_interval(row: pd.Series, centre: str, low: str, high: str) -> str:
    if row["settings"] < 2:
        return _number(row[centre])
    return f"{_number(row[centre])} [{_number(row[low])}, {_number(row[high])}]"


def _worst(row: pd.Series) -> str:
    value = "failed" if math.isinf(row["worst"]) else _number(row["worst"])
    return f"{value} ({row['worst_setting']})"


def _points(summary: pd.DataFrame, method: object, name: str) -> str:
    if summary.empty or method not in summary.index:
        return "—"
    value = summary.loc[method, name]
    return "failed" if math.isinf(value) else _number(100 * value, 1)


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %" if math.isfinite(value) else "—"


def _number(value: float, digits: int = 3) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else "—"
