"""Execution of a study's runs as parallel processes; a study that was killed can be started again."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType

from benchmarks.study.definition import Study
from benchmarks.study.execution import (
    BUSY_EXIT_STATUS,
    LOG_FILE,
    RESULT_FILE,
    is_locked,
    last_error_line,
    read_result,
    run_folder,
    summarize_run,
)
from benchmarks.study.grid import Run
from benchmarks.study.machine import RUNS_AT_A_TIME, available_cores
from benchmarks.study.results import FAILED, FINISHED, Result, ResultsFile

POLL_SECONDS = 0.2
STOP_SECONDS = 10.0


@dataclass(frozen=True)
class Slot:
    """Resources for one run at a time: a GPU, or a number of CPU threads."""

    name: str
    environment: dict[str, str]


def find_slots(jobs: int | None = None, threads: int | None = None, device: str = "auto") -> list[Slot]:
    """Return the slots of this machine: one per GPU, or as many as the cores allow.

    Args:
        jobs: Number of runs at a time. Default: the number of GPUs, or cores divided by ``threads``.
        threads: CPU threads per run. Default: 1 without a GPU, else the cores shared out evenly.
        device: ``cpu``, ``cuda``, or ``auto`` for CUDA where there is one.

    Raises:
        ValueError: ``device`` is ``cuda`` and there is no CUDA device.
    """
    gpus = [] if device == "cpu" else _visible_gpus()
    if device == "cuda" and not gpus:
        raise ValueError("--device cuda: no CUDA device was found (allowed here: cpu, auto)")
    cores = available_cores()
    if gpus:
        jobs = jobs or len(gpus)
        threads = threads or max(1, cores // jobs)
        common = {**thread_variables(threads), RUNS_AT_A_TIME: str(jobs)}
        return [
            Slot(f"gpu {gpus[i % len(gpus)]}", {**common, "CUDA_VISIBLE_DEVICES": gpus[i % len(gpus)]})
            for i in range(jobs)
        ]
    threads = threads or 1
    jobs = jobs or max(1, cores // threads)
    # An empty CUDA_VISIBLE_DEVICES keeps runs with "accelerator: auto" on the CPU.
    common = {**thread_variables(threads), RUNS_AT_A_TIME: str(jobs), "CUDA_VISIBLE_DEVICES": ""}
    return [Slot(f"cpu {i}", common) for i in range(jobs)]


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


def forget(runs: Sequence[Run], output: Path, store: ResultsFile) -> None:
    """Delete the results of runs from the results file and from their folders, where `collect` would find them."""
    for run in runs:
        (run_folder(output, run) / RESULT_FILE).unlink(missing_ok=True)
        store.forget(run.id)


def missing_runs(runs: Sequence[Run], store: ResultsFile, retry: bool = True) -> list[Run]:
    """Return the runs without a result and, with ``retry``, those that failed."""
    known = store.results()
    return [run for run in runs if run.id not in known or (retry and known[run.id].status == FAILED)]


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
        slots: Slots to execute runs on.
        on_start: Called with a run when its process starts.
        on_end: Called with a run and its result when the result is recorded.
        on_wait: Called while runs go on, several times a second.
    """

    def __init__(
        self,
        study: Study,
        variant: str | None,
        output: Path,
        store: ResultsFile,
        slots: Sequence[Slot],
        on_start: Callable[[Run], None] = lambda run: None,
        on_end: Callable[[Run, Result], None] = lambda run, result: None,
        on_wait: Callable[[], None] = lambda: None,
    ) -> None:
        self.study = study
        self.variant = variant
        self.output = output
        self.store = store
        self.slots = list(slots)
        self.on_start = on_start
        self.on_end = on_end
        self.on_wait = on_wait
        self.skipped: list[Run] = []
        self._stopping = False

    def execute(self, runs: Sequence[Run]) -> bool:
        """Execute ``runs``; return False if a signal stopped it."""
        pending = list(runs)
        free = list(self.slots)
        working: list[_Process] = []
        handlers = {s: signal.signal(s, self._stop) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            while (pending or working) and not self._stopping:
                while pending and free:
                    run = pending.pop(0)
                    folder = run_folder(self.output, run)
                    if is_locked(folder):
                        self.skipped.append(run)
                        continue
                    result = read_result(folder)
                    if result is not None and result.status == FINISHED:
                        # Another process has executed it since the study began.
                        self.on_start(run)
                        collect([run], self.output, self.store)
                        self.on_end(run, result)
                        continue
                    working.append(self._launch(run, free.pop(0)))
                    self.on_start(run)
                for process in list(working):
                    if self._has_ended(process):
                        working.remove(process)
                        free.append(process.slot)
                        self._finish(process)
                self.on_wait()
                time.sleep(POLL_SECONDS)
        finally:
            for process in working:
                process.stop()
                # A stopped run may write a result of a failure; the run is repeated at the next start instead.
                (process.folder / RESULT_FILE).unlink(missing_ok=True)
            for number, handler in handlers.items():
                signal.signal(number, handler)
        return not self._stopping

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self._stopping = True

    def _launch(self, run: Run, slot: Slot) -> _Process:
        folder = run_folder(self.output, run)
        folder.mkdir(parents=True, exist_ok=True)
        known = self.store.results([run.id]).get(run.id)
        attempt = known.attempts + 1 if known else 1
        command = run_command(self.study, run, self.output, self.variant, attempt)
        with (folder / LOG_FILE).open("wb") as log:
            # In a new session, so that Ctrl-C reaches only the study, which then stops its runs.
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **slot.environment},
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
        self.on_end(process.run, result)

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
    slot: Slot
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


def thread_variables(count: int) -> dict[str, str]:
    """Return the environment variables that give a run a number of CPU threads."""
    variables = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    # Threads of the tokenizer would compete with parallel runs.
    return {**dict.fromkeys(variables, str(count)), "TOKENIZERS_PARALLELISM": "false"}


def _visible_gpus() -> list[str]:
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        # As CUDA reads the variable: the devices before the first invalid one, such as -1.
        names = (name.strip() for name in named.split(","))
        return list(itertools.takewhile(lambda name: name and not name.startswith("-"), names))
    try:
        listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [str(i) for i, line in enumerate(listed.stdout.splitlines()) if line.startswith("GPU ")]
