"""Results file of a study: one SQLite row per run, finished or failed."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

FINISHED = "finished"
FAILED = "failed"


def lower_is_better(metric: str) -> bool:
    """Return whether the best value of a logged metric is the lowest, as of a loss or an error.

    Args:
        metric: Its name, such as ``val/loss`` or ``val_mismatched/accuracy``.
    """
    from lightning_modules.metrics import mode_of  # imports torch, which a study's own process can do without

    name = metric.rpartition("/")[2]
    return name.endswith("loss") or mode_of(name) == "min"


@dataclass(frozen=True)
class Result:
    """Result of one run: its status, scores, times and machine.

    Args:
        id: The run's id.
        status: ``finished`` or ``failed``.
        reason: One line that says why a failed run failed; empty for a finished one.
        labels: The cell's labels, one per axis.
        seed: The run's seed.
        final: Every validation metric at the last validation.
        best: Every validation metric at its best, the lowest or the highest (`lower_is_better`).
        majority: Share of the most frequent class among the validation labels; ``None`` for regression.
        steps: Optimizer steps done.
        train_seconds: Seconds of training, validation not counted.
        seconds_per_step: Median over the steps after warm-up.
        peak_memory_mib: Highest memory, as `callbacks.PeakMemoryMonitor` measures it.
        wall_seconds: Start to end of the process.
        attempts: How often the run has been started.
        machine: Where it ran, from `machine.describe_machine`.
        fit_seconds: Seconds of the whole fit: training, validation, and what callbacks do before and after.
        processor_seconds: Processor seconds of the same, which other programs on the machine hardly change.
        interpolation: What `callbacks.PretrainedInterpolation` found, by name, without ``interpolation/``.
    """

    id: str
    status: str
    reason: str
    labels: Mapping[str, str]
    seed: int
    final: Mapping[str, float] = field(default_factory=dict)
    best: Mapping[str, float] = field(default_factory=dict)
    majority: float | None = None
    steps: int | None = None
    train_seconds: float | None = None
    seconds_per_step: float | None = None
    peak_memory_mib: float | None = None
    wall_seconds: float | None = None
    attempts: int = 1
    machine: Mapping[str, Any] = field(default_factory=dict)
    fit_seconds: float | None = None
    processor_seconds: float | None = None
    interpolation: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def from_json(cls, text: str) -> Result:
        """Return the result that `to_json` wrote."""
        return cls(**json.loads(text))

    def machine_text(self) -> str:
        """Return the machine as one line of text, without the host's name and the commit."""
        units = {
            "cpu": "{}",
            "cores": "{} cores",
            "ram_gib": "{:g} GiB of RAM",
            "gpu": "{}",
            "threads": "threads per run: {}",
            "runs_at_a_time": "runs at a time: {}",
        }
        shown = {key: value for key, value in self.machine.items() if key not in ("host", "commit")}
        return ", ".join(units.get(key, key + " {}").format(value) for key, value in shown.items() if value is not None)

    def to_json(self) -> str:
        """Return this result as one JSON object."""
        return json.dumps(asdict(self), indent=1)


_JSON_COLUMNS = ("labels", "final", "best", "machine", "interpolation")
_COLUMNS = tuple(f.name for f in fields(Result))


class ResultsFile:
    """SQLite file of results, one transaction per row, so that a killed process leaves a readable file.

    Write-ahead logging lets a report read while a study writes. Only the main process of a study writes. Each run
    leaves its result in a file of its own instead, because SQLite's locks are not reliable on the file systems of
    clusters.

    Args:
        path: The file; it is created, with its folders, if it does not exist.
        in_memory: Whether to work on a copy in memory instead, empty if there is no file, and write nothing.

    Raises:
        ValueError: The file is not a results file.
    """

    def __init__(self, path: str | Path, in_memory: bool = False) -> None:
        self.path = Path(path)
        if not in_memory:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        self._connection = sqlite3.connect(":memory:" if in_memory else self.path, timeout=30, isolation_level=None)
        try:
            if in_memory and self.path.exists():
                self._copy_file()
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=FULL")
            columns = ", ".join("id TEXT PRIMARY KEY" if name == "id" else name for name in _COLUMNS)
            self._connection.execute(f"CREATE TABLE IF NOT EXISTS runs ({columns})")
            found = tuple(row[1] for row in self._connection.execute("PRAGMA table_info(runs)"))
            if found == _COLUMNS[: len(found)]:
                # A file of an earlier version, which measured less.
                for name in _COLUMNS[len(found) :]:
                    default = " DEFAULT '{}'" if name in _JSON_COLUMNS else ""
                    self._connection.execute(f"ALTER TABLE runs ADD COLUMN {name}{default}")
                found = _COLUMNS
        except sqlite3.DatabaseError as error:
            self._connection.close()
            raise ValueError(f"{self.path}: not a results file ({error})") from None
        if found != _COLUMNS:
            self._connection.close()
            raise ValueError(f"{self.path}: its columns are those of another version of this program; move it away")

    def _copy_file(self) -> None:
        # SQLite makes a log to read a file that has none: where nobody writes, immutable keeps it from doing so.
        has_log = self.path.with_name(f"{self.path.name}-wal").exists()
        address = f"{self.path.absolute().as_uri()}?mode=ro{'' if has_log else '&immutable=1'}"
        with closing(sqlite3.connect(address, timeout=30, uri=True)) as file:
            file.backup(self._connection)

    def record(self, result: Result) -> None:
        """Write a result, in place of an earlier one with the same id."""
        row = asdict(result)
        values = [json.dumps(row[name]) if name in _JSON_COLUMNS else row[name] for name in _COLUMNS]
        marks = ", ".join("?" * len(_COLUMNS))
        self._connection.execute(f"INSERT OR REPLACE INTO runs VALUES ({marks})", values)

    def forget(self, id: str) -> None:
        """Delete the row of a run, if it exists."""
        self._connection.execute("DELETE FROM runs WHERE id = ?", (id,))

    def results(self, ids: Iterable[str] | None = None) -> dict[str, Result]:
        """Return results by id: all of them, or those of ``ids`` that exist."""
        wanted = None if ids is None else set(ids)
        found = {}
        for row in self._connection.execute("SELECT * FROM runs"):
            values = dict(zip(_COLUMNS, row, strict=True))
            for name in _JSON_COLUMNS:
                values[name] = json.loads(values[name])
            if wanted is None or values["id"] in wanted:
                found[values["id"]] = Result(**values)
        return found

    def close(self) -> None:
        """Close the file and merge its write-ahead log into it."""
        self._connection.close()

    def __enter__(self) -> ResultsFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
