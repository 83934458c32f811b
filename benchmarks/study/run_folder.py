"""The folder of a study's run: its history, its result, its log, and the lock of the process that executes it."""

from __future__ import annotations

import contextlib
import csv
import fcntl
import json
import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from benchmarks.study.grid import Run
from benchmarks.study.results import Result

RESULT_FILE = "result.json"
HISTORY_FILE = "history.csv"
LOG_FILE = "run.log"
LOCK_FILE = "lock"
# Names of values in the history that are no metrics.
FIT_SECONDS, PROCESSOR_SECONDS = "fit/seconds", "fit/processor_seconds"
INTERPOLATION = "interpolation/"
COMPLETE = "train/complete"  # written last, unless training was interrupted


def run_folder(output: Path, run: Run) -> Path:
    """Return the folder of a run's files."""
    return output / "runs" / run.id


def read_history(path: Path) -> dict[str, list[tuple[int, float, float]]]:
    """Return a run's history: values as ``(step, seconds, value)`` by name; incomplete lines are skipped."""
    values: dict[str, list[tuple[int, float, float]]] = defaultdict(list)
    if not path.is_file():
        return values
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        for row in csv.reader(line for line in file if line.endswith("\n")):
            try:
                step, second, name, value = row
                values[name].append((int(step), float(second), float(value)))
            except ValueError:
                continue
    return values


def write_result(folder: Path, result: Result) -> None:
    """Write a result into a run's folder, atomically."""
    temporary = folder / f"{RESULT_FILE}.{os.getpid()}"
    temporary.write_text(result.to_json(), encoding="utf-8")
    temporary.replace(folder / RESULT_FILE)


def read_result(folder: Path) -> Result | None:
    """Return the result in a run's folder, or ``None``."""
    try:
        return Result.from_json((folder / RESULT_FILE).read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError, TypeError):
        return None


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock a run's folder inside the context; the system releases the lock when the process ends, however it ends.

    Raises:
        BlockingIOError: Another process has locked it.
    """
    with (folder / LOCK_FILE).open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


def is_locked(folder: Path) -> bool:
    """Return whether a process is executing the run of this folder."""
    if not (folder / LOCK_FILE).exists():
        return False
    try:
        with locked(folder):
            return False
    except BlockingIOError:
        return True


def last_error_line(text: str) -> str:
    """Return the last line of a log that contains "error", or else its last line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    told = [line for line in lines if "error" in line.lower()]
    return (told or lines or ["no output"])[-1][:500]
