"""Execution of a study's runs as parallel processes; a study that was killed can be started again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.study.bookkeeping import collect, next_attempt
from benchmarks.study.definition import Study
from benchmarks.study.execution import BUSY_EXIT_STATUS
from benchmarks.study.grid import Run
from benchmarks.study.progress import Watcher
from benchmarks.study.results import FINISHED, ResultsFile
from benchmarks.study.run_folder import LOG_FILE, RESULT_FILE, is_locked, last_error_line, read_result, run_folder
from benchmarks.study.signals import caught_signals
from benchmarks.study.summary import summarize_run

POLL_SECONDS = 0.2
STOP_SECONDS = 10.0


def run_command(study: Study, run: Run, output: Path, variant: str | None, attempt: int = 1) -> list[str]:
    """Return the command that executes one run, on this machine or from any launcher such as SLURM."""
    command = [sys.executable, "-m", "benchmarks.study", str(study.path), "--run", run.id, "--output", str(output)]
    command += ["--variant", variant] if variant else []
    return command + (["--attempt", str(attempt)] if attempt > 1 else [])


class StudyRunner:
    """Executes runs on slots until all are done and records a result for each.

    SIGINT and SIGTERM stop the study and the runs in progress. These get no result, so that the next start repeats
    them.

    Args:
        study: The study.
        variant: The variant's name, passed on to the processes.
        output: The study's folder.
        store: The results file.
        slots: Environment variables of each slot (`slots.find_slots`); so many runs are executed at a time.
        watcher: Is told of every run.

    Attributes:
        skipped: Runs that another process is executing.
    """

    def __init__(
        self,
        study: Study,
        variant: str | None,
        output: Path,
        store: ResultsFile,
        slots: Sequence[Mapping[str, str]],
        watcher: Watcher,
    ) -> None:
        self.study = study
        self.variant = variant
        self.output = output
        self.store = store
        self.slots = slots
        self.watcher = watcher
        self.skipped: list[Run] = []

    def execute(self, runs: Sequence[Run]) -> bool:
        """Execute ``runs``; return False if a signal stopped it."""
        pending, free = list(runs), list(self.slots)
        working: list[_Process] = []
        with caught_signals() as caught:
            try:
                while (pending or working) and not caught:
                    while pending and free:
                        run = pending.pop(0)
                        if not self._is_of_another(run):
                            working.append(self._launch(run, free.pop(0)))
                            self.watcher.start(run)
                    for process in list(working):
                        if self._has_ended(process):
                            working.remove(process)
                            free.append(process.slot)
                            self._finish(process)
                    self.watcher.wait()
                    time.sleep(POLL_SECONDS)
            finally:
                for process in working:
                    process.stop()
                    # A stopped run may write a result of a failure; the run is repeated at the next start instead.
                    (process.folder / RESULT_FILE).unlink(missing_ok=True)
        return not caught

    def _is_of_another(self, run: Run) -> bool:
        """Return whether another process executes a run, or has finished it since the study began."""
        folder = run_folder(self.output, run)
        if is_locked(folder):
            self.skipped.append(run)
            return True
        result = read_result(folder)
        if result is None or result.status != FINISHED:
            return False
        self.watcher.start(run)
        collect([run], self.output, self.store)
        self.watcher.end(run, result)
        return True

    def _launch(self, run: Run, slot: Mapping[str, str]) -> _Process:
        folder = run_folder(self.output, run)
        folder.mkdir(parents=True, exist_ok=True)
        attempt = next_attempt(run, self.store)
        command = run_command(self.study, run, self.output, self.variant, attempt)
        with (folder / LOG_FILE).open("wb") as log:
            # In a new session, so that Ctrl-C reaches only the study, which then stops its runs.
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **slot},
                start_new_session=True,
            )
        return _Process(run, slot, process, folder, attempt, time.monotonic())

    def _has_ended(self, process: _Process) -> bool:
        if process.popen.poll() is not None:
            return True
        limit = self.study.timeout_minutes
        if limit is not None and time.monotonic() - process.started > limit * 60:
            process.stop()
            process.timed_out = True
            return True
        return False

    def _finish(self, process: _Process) -> None:
        if process.popen.returncode == BUSY_EXIT_STATUS:
            self.skipped.append(process.run)
            return
        result = None if process.timed_out else read_result(process.folder)
        if result is None:
            wall = time.monotonic() - process.started
            result = summarize_run(process.run, process.folder, self._reason(process), wall, process.attempt)
        self.store.record(result)
        self.watcher.end(process.run, result)

    def _reason(self, process: _Process) -> str:
        if process.timed_out:
            return f"stopped after timeout_minutes: {self.study.timeout_minutes:g}"
        code = process.popen.returncode
        if code < 0:
            name = signal.Signals(-code).name
            return f"killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
        log = (process.folder / LOG_FILE).read_text(encoding="utf-8", errors="replace")
        return f"exit status {code}: {last_error_line(log)}"


@dataclass
class _Process:
    run: Run
    slot: Mapping[str, str]
    popen: subprocess.Popen[bytes]
    folder: Path
    attempt: int
    started: float
    timed_out: bool = False

    def stop(self) -> None:
        """End the process and its children, by SIGTERM and, after a wait, by SIGKILL."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self.popen.poll() is None:
                os.killpg(self.popen.pid, number)
                try:
                    self.popen.wait(STOP_SECONDS)
                except subprocess.TimeoutExpired:
                    continue
