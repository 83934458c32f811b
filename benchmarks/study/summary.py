"""The result of a study's run, computed from its history."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.study.grid import Run
from benchmarks.study.machine import describe_machine
from benchmarks.study.results import FAILED, FINISHED, Result, lower_is_better
from benchmarks.study.run_folder import (
    COMPLETE,
    FIT_SECONDS,
    HISTORY_FILE,
    INTERPOLATION,
    PROCESSOR_SECONDS,
    read_history,
)

WARM_UP_STEPS = 5


def summarize_run(run: Run, folder: Path, reason: str, wall_seconds: float, attempt: int = 1) -> Result:
    """Compute a run's result from its history.

    A run has failed if it was interrupted, if its metric was never validated, or if its last validation loss is not
    finite: a model of NaNs still has an accuracy, that of a constant prediction.

    Args:
        run: The run.
        folder: Its folder.
        reason: Why it has failed, as far as is known without the history; empty where nothing is.
        wall_seconds: Start to end of its process.
        attempt: Which attempt at the run it was.
    """
    history = read_history(folder / HISTORY_FILE)
    last = {name: values[-1][2] for name, values in history.items() if values}
    majority = last.pop("val/majority", None)
    final = {name: value for name, value in last.items() if name.startswith("val")}
    reason = reason or _failure(run.cell.metric, final, is_complete=COMPLETE in history)
    losses = history.get("train/loss", [])
    per_step = [(later[1] - earlier[1]) / (later[0] - earlier[0]) for earlier, later in itertools.pairwise(losses)]
    settled = per_step[WARM_UP_STEPS:] or per_step
    return Result(
        id=run.id,
        status=FAILED if reason else FINISHED,
        reason=reason,
        labels=dict(run.cell.labels),
        seed=run.seed,
        final=final,
        best={name: _best(name, [value for _, _, value in history[name]]) for name in final},
        majority=majority,
        steps=losses[-1][0] if losses else None,
        train_seconds=losses[-1][1] if losses else None,
        seconds_per_step=statistics.median(settled) if settled else None,
        peak_memory_mib=last.get("train/memory_mib"),
        wall_seconds=wall_seconds,
        attempts=attempt,
        machine=describe_machine(),
        fit_seconds=last.get(FIT_SECONDS),
        processor_seconds=last.get(PROCESSOR_SECONDS),
        interpolation={
            name.removeprefix(INTERPOLATION): value for name, value in last.items() if name.startswith(INTERPOLATION)
        },
    )


def _failure(metric: str, final: Mapping[str, float], is_complete: bool) -> str:
    """Return why a run has failed by its history: the validation metrics at the end, and whether training ended."""
    if not is_complete:
        return "interrupted before the end of training"
    if not final:
        return "no validation: the budget ends before the first epoch does; set trainer.val_check_interval"
    if metric not in final:
        return f"the metric {metric} was never logged by a validation (logged: {', '.join(sorted(final))})"
    loss = final.get("val/loss", 0.0)
    return "" if math.isfinite(loss) else f"diverged: the last val/loss is {loss}"


def _best(name: str, values: Sequence[float]) -> float:
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return math.nan
    return min(finite) if lower_is_better(name) else max(finite)
