"""Estimates of the time that a study will take, from the times of its finished runs."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from benchmarks.study.definition import Study
from benchmarks.study.grid import Run
from benchmarks.study.results import FINISHED, Result

# Starting Python, importing torch and loading a model, for the first estimate of runs with a budget in seconds.
START_SECONDS = 20.0


def estimate_run_seconds(study: Study, run: Run, finished: Mapping[str, Result]) -> float | None:
    """Estimate the wall-clock seconds that a run will take.

    This is the mean over the finished runs of the same cell or, without any, over those that share most labels with it;
    before the first run has finished, the study's ``expected_seconds``, or a budget in seconds.

    Returns:
        The seconds, or ``None`` if nothing is known.
    """
    done = [result for result in finished.values() if result.status == FINISHED and result.wall_seconds is not None]
    if done:
        shared = [sum(result.labels.get(axis) == label for axis, label in run.cell.labels.items()) for result in done]
        closest = [result for result, count in zip(done, shared, strict=True) if count == max(shared)]
        return statistics.fmean(result.wall_seconds for result in closest if result.wall_seconds is not None)
    if study.expected_seconds is not None:
        return study.expected_seconds
    return None if run.cell.budget.seconds is None else run.cell.budget.seconds + START_SECONDS


def estimate_study_seconds(
    study: Study, runs: Sequence[Run], finished: Mapping[str, Result], slots: int
) -> float | None:
    """Estimate the wall-clock seconds of ``runs``, ``slots`` at a time; ``None`` if that of a run is unknown."""
    each = [estimate_run_seconds(study, run, finished) for run in runs]
    known = [seconds for seconds in each if seconds is not None]
    if len(known) < len(each):
        return None
    return max(sum(known) / slots, max(known, default=0.0))


def duration(seconds: float) -> str:
    """Return seconds as text: ``45 s``, ``12 min``, ``3 h 20 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def number_of(count: int, name: str) -> str:
    """Return a count with its noun: ``1 seed``, ``3 seeds``."""
    return f"{count} {name}{'' if count == 1 else 's'}"
