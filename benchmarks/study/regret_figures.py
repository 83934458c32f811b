"""Figures of regret: of every setting, a performance profile, mean ranks."""

from __future__ import annotations

import math

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from benchmarks.study import figures
from benchmarks.study.regret import performance_profile

FURTHEST = 2.0  # of a performance profile
LINES = 10  # more cannot be told apart


def regret_figure(frame: pd.DataFrame) -> Figure:
    """Plot the regret in loss of each method: a dot per setting, a stroke for their mean, the lowest mean on top."""
    finite = frame[np.isfinite(frame["loss_regret"])]
    by_setting = finite.groupby(["method", "setting"], sort=False)["loss_regret"].mean()
    means = by_setting.groupby("method").mean().sort_values()
    with mpl.rc_context(figures.STYLE):
        figure = Figure(figsize=(figures.WIDTH, 0.9 + 0.22 * len(means)), layout="constrained")
        axes = figure.subplots()
        places = np.arange(len(means))[::-1]
        for place, method in zip(places, means.index, strict=True):
            values = by_setting[method].to_numpy()
            axes.plot(values, np.full(len(values), place), "o", color=figures.COLOURS[0], markersize=4, alpha=0.5)
        axes.plot(means.to_numpy(), places, "|", color=figures.COLOURS[1], markersize=11, markeredgewidth=2)
        # Regrets are small beside those of methods that do not learn, and some are negative.
        axes.set_xscale("symlog", linthresh=0.1)
        sizes = (0.05, 0.1, 0.2, 0.5, 1, 2, 5)
        least, largest = by_setting.min(), max(0.1, by_setting.max())
        ticks = [tick for tick in (*(-size for size in reversed(sizes)), 0, *sizes) if least <= tick <= largest]
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.set_xticks([], minor=True)
        axes.set_yticks(places, [_with_number(method, by_setting) for method in means.index], fontsize=7)
        axes.set_xlabel("validation loss above that of the grid's best rate; dots: settings, strokes: means")
        return figure


def _with_number(method: str, by_setting: pd.Series) -> str:
    """Return a method's name, and where it is not done in all settings, in how many of how many it is."""
    done, settings = len(by_setting[method]), by_setting.index.get_level_values("setting").nunique()
    return method if done == settings else f"{method} ({done} of {settings})"


def profile_figure(losses: pd.DataFrame) -> Figure:
    """Plot the share of settings in which a method's loss is within a factor τ of the best one, of the best ones."""
    ratios = performance_profile(losses)
    area = ratios.apply(lambda of: np.clip(FURTHEST - of, 0, FURTHEST - 1).mean()).nlargest(LINES)
    with mpl.rc_context(figures.STYLE):
        figure = Figure(figsize=(figures.WIDTH, 4.2), layout="constrained")
        axes = figure.subplots()
        taus = np.linspace(1, FURTHEST, 400)
        for i, method in enumerate(area.index):
            colour, dash, _ = figures.look(i)
            share = [(ratios[method] <= tau + 1e-9).mean() for tau in taus]
            axes.plot(taus, share, color=colour, linestyle=dash, label=method)
        axes.set_xlabel("τ: loss over the best loss of the setting")
        axes.set_ylabel("share of settings")
        axes.set_ylim(0, 1.02)
        axes.legend(
            loc="center left", bbox_to_anchor=(1.02, 0.5), fontsize=7, title="by area below the line", title_fontsize=7
        )
        return figure


def rank_figure(ranks: pd.Series, difference: float) -> Figure:
    """Plot mean ranks, best at the top, with a bar of the critical difference from the best one on."""
    ordered = ranks.sort_values()
    with mpl.rc_context(figures.STYLE):
        figure = Figure(figsize=(figures.WIDTH, 0.7 + 0.2 * len(ordered)), layout="constrained")
        axes = figure.subplots()
        places = np.arange(len(ordered))[::-1]
        axes.plot(ordered.to_numpy(), places, "o", color=figures.COLOURS[0], markersize=5)
        if math.isfinite(difference):
            axes.axvspan(ordered.iloc[0], ordered.iloc[0] + difference, color=figures.COLOURS[0], alpha=0.12)
        axes.set_yticks(places, list(ordered.index), fontsize=7)
        axes.set_xlabel("mean rank by loss; shaded: not distinguishable from the first")
        return figure
