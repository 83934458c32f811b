"""Learning curves: means over the runs of a cell with one standard error, against steps or seconds of training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from benchmarks.study.grid import Run
from benchmarks.study.results import FINISHED, Result
from benchmarks.study.run_folder import HISTORY_FILE, read_history, run_folder

GRID_POINTS = 100
STEP_SIZE = "train/step_size/"

History = dict[str, list[tuple[int, float, float]]]


def load_histories(runs: Sequence[Run], results: Mapping[str, Result], output: Path) -> dict[str, History]:
    """Return the histories of the finished runs, by run id."""
    finished = [run for run in runs if run.id in results and results[run.id].status == FINISHED]
    return {run.id: dict(read_history(run_folder(output, run) / HISTORY_FILE)) for run in finished}


def mean_curve(
    histories: Sequence[History], name: str, against: Literal["step", "seconds"], smooth: int = 1
) -> pd.DataFrame:
    """Average a logged value over runs.

    Runs that were recorded at the same steps are averaged there, at the mean of their seconds. Others are interpolated
    onto a common grid that ends where the shortest run ends, so that a mean is always over the same runs.

    Args:
        histories: The runs' histories.
        name: What to average, such as ``train/loss``.
        against: The horizontal axis.
        smooth: Width of a rolling mean over recorded values, taken per run before averaging.

    Returns:
        A table with the columns ``x``, ``mean``, ``se`` and ``n``.
    """
    curves = []
    for history in histories:
        points = history.get(name, [])
        if points:
            steps, seconds, values = (np.array(column, dtype=float) for column in zip(*points, strict=True))
            # Two recordings at one step (a validation at the end of an epoch and of the run) are one point.
            keep = np.append(np.diff(steps) > 0, True)
            smoothed = pd.Series(values).rolling(smooth, min_periods=1).mean().to_numpy()
            curves.append((steps[keep], seconds[keep], smoothed[keep]))
    if not curves:
        return pd.DataFrame({"x": [], "mean": [], "se": [], "n": []})
    if all(np.array_equal(steps, curves[0][0]) for steps, _, _ in curves):
        places = curves[0][0] if against == "step" else np.mean([seconds for _, seconds, _ in curves], axis=0)
        values = np.stack([y for _, _, y in curves])
    else:
        placed = [(steps if against == "step" else seconds, y) for steps, seconds, y in curves]
        start, end = max(x[0] for x, _ in placed), min(x[-1] for x, _ in placed)
        places = np.linspace(start, end, GRID_POINTS) if end > start else np.array([end])
        values = np.stack([np.interp(places, x, y) for x, y in placed])
    n = len(curves)
    se = values.std(axis=0, ddof=1) / math.sqrt(n) if n > 1 else np.full(len(places), math.nan)
    return pd.DataFrame({"x": places, "mean": values.mean(axis=0), "se": se, "n": n})


def step_size_units(histories: Sequence[History]) -> list[str]:
    """Return the names of the units whose step size was recorded, in the optimizer's order."""
    names = dict.fromkeys(name for history in histories for name in history if name.startswith(STEP_SIZE))
    return [name.removeprefix(STEP_SIZE) for name in names]


def evaluations_per_step(histories: Sequence[History]) -> float:
    """Return the mean number of trials per step, NaN for an optimizer that does not search."""
    values = [value for history in histories for _, _, value in history.get("train/evaluations", [])]
    return float(np.mean(values)) if values else math.nan
