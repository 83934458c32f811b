"""Which runs of a study are done: its results file, and the results that runs have left in their own folders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.study.grid import Run
from benchmarks.study.results import FAILED, FINISHED, ResultsFile
from benchmarks.study.run_folder import RESULT_FILE, read_result, run_folder


def collect(runs: Sequence[Run], output: Path, store: ResultsFile) -> None:
    """Copy results from the runs' folders into the results file, after runs on a cluster or a killed study."""
    known = store.results()
    for run in runs:
        result = read_result(run_folder(output, run))
        if result is None:
            continue
        row = known.get(run.id)
        if row is None or (row.status == FAILED and result.status == FINISHED):
            store.record(replace(result, attempts=max(result.attempts, row.attempts if row else 1)))


def has_results(runs: Sequence[Run], output: Path) -> bool:
    """Return whether any run has left a result in its folder."""
    return any(read_result(run_folder(output, run)) is not None for run in runs)


def forget(runs: Sequence[Run], output: Path, store: ResultsFile) -> None:
    """Delete the results of runs from the results file and from their folders, where `collect` would find them."""
    for run in runs:
        (run_folder(output, run) / RESULT_FILE).unlink(missing_ok=True)
        store.forget(run.id)


def missing_runs(runs: Sequence[Run], store: ResultsFile, retry: bool = True) -> list[Run]:
    """Return the runs without a result and, with ``retry``, those that failed."""
    known = store.results()
    return [run for run in runs if run.id not in known or (retry and known[run.id].status == FAILED)]


def next_attempt(run: Run, store: ResultsFile) -> int:
    """Return the number of the next attempt at a run."""
    known = store.results([run.id]).get(run.id)
    return known.attempts + 1 if known else 1
