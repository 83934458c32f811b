"""Figures of a report, as PNG, in colours that colour-blind readers can tell apart."""

from __future__ import annotations

import itertools
import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from benchmarks.study.curves import STEP_SIZE, History, mean_curve, step_size_units
from benchmarks.study.statistics import baseline_name

# Okabe and Ito's palette, yellow left out (too light for lines on white).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#7F7F7F")
DASHES: tuple[Any, ...] = ("-", "--", "-.", ":")
MARKERS = "osD^vPX*"
CLIP_AT = 3.0  # times the starting loss
WIDTH = 7.2  # inches: a paper's full text width
STYLE: Any = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "legend.fontsize": 8,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.4,
    "legend.frameon": False,
    "savefig.dpi": 200,
}


@dataclass(frozen=True)
class Series:
    """One method in the figures of a table: its label and the histories of its runs."""

    label: str
    metric: str
    histories: Sequence[History]


AGAINST: tuple[Literal["step", "seconds"], ...] = ("step", "seconds")


def save(figure: Figure, folder: Path, name: str) -> str:
    """Write a figure as ``name.png`` into a folder and return the file's name."""
    folder.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(STYLE):
        figure.savefig(folder / f"{name}.png")
    return f"{name}.png"


def learning_curves(series: Sequence[Series]) -> Figure:
    """Plot training loss, validation loss and the metric against steps (left) and seconds of training (right)."""
    metric = series[0].metric
    rows = ["train/loss", "val/loss"] + ([metric] if metric != "val/loss" else [])
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 2.1 * len(rows) + 0.3 + _legend_height(len(series))), layout="constrained")
        grid = figure.subplots(len(rows), 2, sharey="row", sharex="col", squeeze=False)
        for row, name in enumerate(rows):
            # Batch losses are noisy: a rolling mean over a twentieth of the run shows the trend.
            smooth = _window(series) if name == "train/loss" else 1
            for column, against in enumerate(AGAINST):
                _curves(grid[row][column], series, name, against, smooth)
            if name.endswith("loss"):
                _clip(grid[row][0], series, name)
            grid[row][0].set_ylabel(_value_label(name) + (f"\n(rolling mean, {smooth} steps)" if smooth > 1 else ""))
        grid[-1][0].set_xlabel("optimizer step")
        grid[-1][1].set_xlabel("seconds of training (s)")
        for axes in grid[-1]:
            axes.set_xlim(left=0)
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        _legend_below(figure, series)
        return figure


def step_sizes(series: Sequence[Series]) -> Figure | None:
    """Plot step sizes against steps: a panel per method whose step size changes, a line per unit.

    Returns:
        The figure, or ``None`` where no method's step size changes.
    """
    shown = [one for one in series if _positive_units(one) and _changes(one)]
    if not shown:
        return None
    columns = min(3, len(shown))
    rows = math.ceil(len(shown) / columns)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 1.9 * rows + 0.5), layout="constrained")
        grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for axes, one in itertools.zip_longest(grid.flat, shown):
            if one is None:
                axes.set_visible(False)
                continue
            _unit_lines(axes, one)
            axes.set_title("\n".join(textwrap.wrap(one.label, 30)))
            axes.set_yscale("log")
        for axes in grid[:, 0]:
            axes.set_ylabel("step size")
        for axes in grid[-1]:
            axes.set_xlabel("optimizer step")
            axes.set_xlim(left=0)
        # The last panel of a column carries the tick labels, also where the last row is not full.
        for index in range(len(shown) - columns, len(shown)):
            if index >= 0:
                grid.flat[index].tick_params(labelbottom=True)
                grid.flat[index].set_xlabel("optimizer step")
        return figure


def costs(cells: pd.DataFrame, labels: Sequence[str]) -> Figure:
    """Plot time per step and peak memory of every method as bars, with one standard error over seeds."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 0.9 + 0.26 * len(cells)), layout="constrained")
        time_axes, memory_axes = figure.subplots(1, 2, sharey=True)
        places = np.arange(len(cells))[::-1]
        panels = (
            (time_axes, "seconds_per_step", 1000.0, "time per step (ms)"),
            (memory_axes, "peak_memory_mib", 1.0, "peak memory above start (MiB)"),
        )
        for axes, column, factor, title in panels:
            values, errors = cells[column] * factor, cells[f"{column}_se"].fillna(0) * factor
            axes.barh(places, values, xerr=errors, height=0.7, color=COLOURS[0], error_kw={"linewidth": 1})
            for place, value, error in zip(places, values, errors, strict=True):
                if math.isfinite(value):
                    number = f"{value:.3g}" if value < 1000 else f"{value:.0f}"
                    axes.text(value + error, place, f" {number}", va="center", ha="left", fontsize=7)
            axes.set_xlabel(title)
            axes.margins(x=0.15)
            axes.grid(axis="y", visible=False)
        time_axes.set_yticks(places, labels)
        return figure


def distribution(runs: pd.DataFrame, labels: Mapping[int, str], metric: str) -> Figure:
    """Plot the score of every run, per method, with the number of runs not above a constant prediction."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH * 0.85, 0.9 + 0.5 * len(labels)), layout="constrained")
        axes = figure.subplots()
        places = range(len(labels) - 1, -1, -1)
        generator = np.random.default_rng(0)
        for place, cell in zip(places, labels, strict=True):
            of_cell = runs[runs["cell"] == cell]
            scores = of_cell["score"].dropna().to_numpy()
            if len(scores) > 2 and np.ptp(scores) > 0:
                violin: Any = axes.violinplot(
                    [scores], [place], orientation="horizontal", widths=0.8, showextrema=False
                )
                for body in violin["bodies"]:
                    body.set(facecolor=COLOURS[0], alpha=0.2, linewidth=0)
            spread = generator.uniform(-0.12, 0.12, len(scores))
            axes.scatter(scores, place + spread, s=14, color=COLOURS[0], alpha=0.8, linewidths=0)
            judged = of_cell["learned"].dropna().astype(bool)
            if len(judged):
                text = f" {(~judged).sum()} of {len(judged)} not above baseline"
                axes.text(1.0, place, text, transform=axes.get_yaxis_transform(), va="center", fontsize=7)
        chance = runs["chance"].mean()
        if math.isfinite(chance):
            axes.axvline(chance, color="black", linestyle=":", linewidth=1)
            top = axes.get_xaxis_transform()
            axes.text(chance, 1.0, baseline_name(metric), transform=top, ha="center", va="bottom", fontsize=7)
        axes.set_yticks(list(places), list(labels.values()))
        axes.set_xlabel(_value_label(metric).replace("\n", " "))
        axes.grid(axis="y", visible=False)
        return figure


def tuning(tuned: Mapping[str, pd.DataFrame], metric: str) -> Figure:
    """Plot scores against seconds of training, all tries of a hyperparameter counted: a line or point per method."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
        axes = figure.subplots()
        for i, (label, table) in enumerate(tuned.items()):
            colour, dash, marker = look(i)
            axes.errorbar(
                table["seconds"],
                table["score"],
                yerr=table["score_se"].fillna(0),
                label=label if len(table) == 1 else f"{label}, best of 1 … {len(table)} values",
                color=colour,
                linestyle=dash,
                marker=marker,
                markersize=6,
                # Markers of methods with equal time overlap: a white edge separates them.
                markeredgecolor="white",
                markeredgewidth=0.6,
                capsize=2,
                zorder=3 - i / len(tuned),
            )
        axes.set_xlabel("seconds of training, all tries together (s)")
        axes.set_ylabel(_value_label(metric))
        axes.set_xlim(left=0)
        axes.legend(loc="center left", bbox_to_anchor=(1.02, 0.5))
        return figure


def _curves(axes: Axes, series: Sequence[Series], name: str, against: Literal["step", "seconds"], smooth: int) -> None:
    for i, one in enumerate(series):
        curve = mean_curve(one.histories, name, against, smooth)
        if curve.empty:
            continue
        colour, dash, marker = look(i)
        every = max(1, len(curve) // 8)
        axes.plot(curve["x"], curve["mean"], color=colour, linestyle=dash, marker=marker, markersize=3, markevery=every)
        if curve["se"].notna().all():
            low, high = curve["mean"] - curve["se"], curve["mean"] + curve["se"]
            axes.fill_between(curve["x"], low, high, color=colour, alpha=0.15, linewidth=0)


def _clip(axes: Axes, series: Sequence[Series], name: str) -> None:
    """Limit the axis of losses where one diverges, so that the others stay readable."""
    starts = [h[name][0][2] for one in series for h in one.histories if h.get(name) and math.isfinite(h[name][0][2])]
    if not starts or axes.get_ylim()[1] <= CLIP_AT * float(np.median(starts)):
        return
    top, bottom = CLIP_AT * float(np.median(starts)), axes.dataLim.ymin
    axes.set_ylim(bottom - 0.05 * (top - bottom), top)
    axes.text(0.99, 0.98, "cut off at the top", transform=axes.transAxes, ha="right", va="top", fontsize=7)


def _unit_lines(axes: Axes, one: Series) -> None:
    units = _positive_units(one)
    colours = [COLOURS[0]] if len(units) == 1 else mpl.colormaps["viridis"](np.linspace(0, 0.92, len(units)))
    for unit, colour in zip(units, colours, strict=True):
        curve = mean_curve([_logarithm(history, unit) for history in one.histories], STEP_SIZE + unit, "step")
        axes.plot(curve["x"], np.exp(curve["mean"]), color=colour, linewidth=1)
        if len(units) == 1 and curve["se"].notna().all():
            low, high = np.exp(curve["mean"] - curve["se"]), np.exp(curve["mean"] + curve["se"])
            axes.fill_between(curve["x"], low, high, color=colour, alpha=0.2, linewidth=0)
    if len(units) > 1:
        ends = [Line2D([], [], color=colours[i], label=units[i]) for i in (0, -1)]
        axes.legend(
            handles=ends,
            fontsize=7,
            title=f"{len(units)} units, from … to",
            title_fontsize=7,
            frameon=True,
            framealpha=0.8,
            edgecolor="none",
        )


def _positive_units(one: Series) -> list[str]:
    units = step_size_units(one.histories)
    return [unit for unit in units if any(_logarithm(history, unit)[STEP_SIZE + unit] for history in one.histories)]


def _changes(one: Series) -> bool:
    units = step_size_units(one.histories)
    values = [value for h in one.histories for unit in units for _, _, value in h.get(STEP_SIZE + unit, [])]
    return len(set(values)) > len(units)


def _logarithm(history: History, unit: str) -> History:
    name = STEP_SIZE + unit
    return {name: [(step, s, math.log(value)) for step, s, value in history.get(name, []) if value > 0]}


def _window(series: Sequence[Series]) -> int:
    lengths = [len(history.get("train/loss", [])) for one in series for history in one.histories]
    return max(1, min(lengths, default=1) // 20)


def look(i: int) -> tuple[str, Any, str]:
    """Return colour, dashes and marker of the i-th series."""
    return COLOURS[i % len(COLOURS)], DASHES[(i // len(COLOURS) + i) % len(DASHES)], MARKERS[i % len(MARKERS)]


def _value_label(name: str) -> str:
    if name == "train/loss":
        return "training loss"
    stage, _, metric = name.partition("/")
    set_name = stage.removeprefix("val").strip("_")
    words = {"f1": "F1", "matthews": "Matthews correlation", "pearson": "Pearson correlation"}
    text = f"validation {words.get(metric, metric.replace('_', ' '))}"
    return f"{text}\n({set_name})" if set_name else text


def _legend_columns(series: int) -> int:
    return min(series, 3 if series > 4 else 4)


def _legend_height(series: int) -> float:
    return 0.2 * math.ceil(series / _legend_columns(series))


def _legend_below(figure: Figure, series: Sequence[Series]) -> None:
    handles = []
    for i, one in enumerate(series):
        colour, dash, marker = look(i)
        handles.append(Line2D([], [], color=colour, linestyle=dash, marker=marker, markersize=4, label=one.label))
    figure.legend(handles=handles, loc="outside lower center", ncols=_legend_columns(len(series)))
