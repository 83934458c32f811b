"""Progress display of a study: a bar in a terminal, otherwise one line per run."""

from __future__ import annotations

import sys
import time
from typing import TextIO

from tqdm import tqdm

from benchmarks.study.estimate import duration
from benchmarks.study.grid import Run
from benchmarks.study.results import FAILED, Result

REFRESH_SECONDS = 1.0


class Watcher:
    """Is told what becomes of a study's runs, and does nothing with it."""

    def start(self, run: Run) -> None:
        """Take in that a run has started."""

    def wait(self) -> None:
        """Take in that runs go on; called several times a second."""

    def end(self, run: Run, result: Result) -> None:
        """Take in that a run has ended, and that its result is recorded."""


class Progress(Watcher):
    """Counts finished and failed runs and prints one line for each, above the bar if there is one.

    Args:
        total: Runs of the study.
        done: Runs that had finished before.
        stream: Stream to write to.
    """

    def __init__(self, total: int, done: int, stream: TextIO = sys.stderr) -> None:
        self._stream = stream
        self._failed = 0
        self._working: list[str] = []
        self._drawn = time.monotonic()
        self._bar = tqdm(
            total=total,
            initial=done,
            unit="run",
            file=stream,
            disable=not stream.isatty(),
            dynamic_ncols=True,
            smoothing=0.0,  # parallel runs end in bursts
            # A fixed width: otherwise the bar's length changes with that of the names behind it.
            bar_format="{percentage:3.0f}% |{bar:20}| {n_fmt}/{total_fmt} runs [{elapsed}<{remaining}]{postfix}",
        )
        self._count = done
        self._total = total

    def start(self, run: Run) -> None:
        """Show a run whose process has started."""
        self._working.append(run.name)
        self._draw()

    def wait(self) -> None:
        """Update the elapsed time."""
        if time.monotonic() - self._drawn > REFRESH_SECONDS:
            self._draw()

    def end(self, run: Run, result: Result) -> None:
        """Count a run that has ended and print its line."""
        self._working.remove(run.name)
        self._count += 1
        took = f" in {duration(result.wall_seconds)}" if result.wall_seconds is not None else ""
        if result.status == FAILED:
            self._failed += 1
            outcome = f"FAILED{took}: {result.reason}"
        else:
            outcome = f"{run.cell.metric} {result.final[run.cell.metric]:.4g}{took}"
        line = f"[{self._count:>{len(str(self._total))}}/{self._total}] {run.name}: {outcome}"
        if self._bar.disable:
            print(line, file=self._stream, flush=True)
        else:
            self._bar.write(line, file=self._stream)
        self._bar.update(1)
        self._draw()

    def close(self) -> None:
        """Draw the bar a last time, without names of runs in progress."""
        self._working.clear()
        self._draw()
        self._bar.close()

    def _draw(self) -> None:
        failed = [f"{self._failed} failed"] if self._failed else []
        working = [f"now: {' | '.join(self._working)}"] if self._working else []
        self._bar.set_postfix_str(", ".join([*failed, *working]))
        self._drawn = time.monotonic()
