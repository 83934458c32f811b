"""Execution of a study's runs as tasks of a Ray cluster, whose nodes share the study's folder."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.study.bookkeeping import next_attempt
from benchmarks.study.definition import Study
from benchmarks.study.execution import execute_run
from benchmarks.study.grid import Run
from benchmarks.study.progress import Watcher
from benchmarks.study.results import FINISHED, Result, ResultsFile
from benchmarks.study.run_arguments import VARIABLE
from benchmarks.study.run_folder import LOG_FILE, RESULT_FILE, read_result, run_folder, write_result
from benchmarks.study.signals import caught_signals
from benchmarks.study.slots import thread_variables
from benchmarks.study.summary import summarize_run

POLL_SECONDS = 0.2
BUSY_WAIT_SECONDS = 60.0
# How often a run is made again after its node or its process has died.
RETRIES = 3


class RayRunner:
    """Executes runs on a Ray cluster until all are done and records a result for each.

    A run is a task in a process of its own. When its node dies, Ray gives it to another node; a run that had finished
    by then is not made again. SIGINT and SIGTERM stop the study and the runs in progress, which get no result.

    Args:
        study: The study.
        output: The study's folder, which all nodes see under the same path, as they do the working directory.
        store: The results file.
        threads: CPU threads per run.
        device: ``cpu``, ``cuda`` for a GPU per run, or ``auto`` for a GPU where the cluster has any.
        watcher: Is told of every run when it has ended: when it starts is not known here.

    Raises:
        ValueError: Ray is not installed, no cluster can be reached, or there is no GPU where one was asked for.
    """

    def __init__(
        self,
        study: Study,
        output: Path,
        store: ResultsFile,
        threads: int,
        device: str,
        watcher: Watcher,
    ) -> None:
        try:
            import ray
        except ModuleNotFoundError:
            raise ValueError("--launcher ray needs Ray: pip install -e '.[ray]'") from None
        self._ray = ray
        try:
            # RAY_ADDRESS, or a cluster on this machine, or else a new one of this machine alone.
            ray.init(log_to_driver=False, logging_level="warning")
        except ConnectionError as error:
            raise ValueError(f"--launcher ray: {' '.join(str(error).split())}") from None
        gpus = int(ray.cluster_resources().get("GPU", 0))
        if device == "cuda" and not gpus:
            raise ValueError("--device cuda: the Ray cluster has no GPU (allowed here: cpu, auto)")
        self.study = study
        self.output = output.resolve()
        self.store = store
        self.threads = threads
        self.gpus_per_run = 0 if device == "cpu" or not gpus else 1
        self.runs_at_a_time = gpus if self.gpus_per_run else int(ray.cluster_resources().get("CPU", 0)) // threads
        self.watcher = watcher

    def execute(self, runs: Sequence[Run]) -> bool:
        """Execute ``runs``; return False if a signal stopped it."""
        # Workers have their node's environment: what the settings name comes from here.
        environment = {**variables_of(runs), **thread_variables(self.threads)}
        if not self.gpus_per_run:
            environment["CUDA_VISIBLE_DEVICES"] = ""
        task = self._ray.remote(num_cpus=self.threads, num_gpus=self.gpus_per_run, max_retries=RETRIES, max_calls=1)(
            execute_on_node
        )
        pending: dict[Any, Run] = {}
        with caught_signals() as caught:
            try:
                for run in runs:
                    place = (os.getcwd(), sys.path, self.output, environment, self.study.timeout_minutes)
                    pending[task.remote(run, next_attempt(run, self.store), *place)] = run
                while pending and not caught:
                    for ready in self._ray.wait(list(pending), timeout=POLL_SECONDS)[0]:
                        self._finish(pending.pop(ready), ready)
                    self.watcher.wait()
            finally:
                for reference, run in pending.items():
                    self._ray.cancel(reference, force=True)
                    (run_folder(self.output, run) / RESULT_FILE).unlink(missing_ok=True)
                self._ray.shutdown()
        return not caught

    def _finish(self, run: Run, reference: Any) -> None:
        try:
            result = Result.from_json(self._ray.get(reference))
        except self._ray.exceptions.RayError as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            reason = f"{type(error).__name__}: {reason}"[:500]
            folder, attempt = run_folder(self.output, run), next_attempt(run, self.store)
            result = summarize_run(run, folder, reason, wall_seconds=0.0, attempt=attempt)
        self.store.record(result)
        self.watcher.start(run)
        self.watcher.end(run, result)


def variables_of(runs: Sequence[Run]) -> dict[str, str]:
    """Return the environment variables that the settings of runs name, as they are set in this process."""
    texts = [value for run in runs for value in run.cell.settings.values() if isinstance(value, str)]
    names = {match["name"] for text in texts for match in VARIABLE.finditer(text)}
    return {name: os.environ[name] for name in sorted(names & set(os.environ))}


def execute_on_node(
    run: Run,
    attempt: int,
    folder: str,
    import_path: Sequence[str],
    output: Path,
    environment: dict[str, str],
    timeout_minutes: float | None,
) -> str:
    """Train one run in this process, a worker of Ray's, and return its result as JSON.

    Args:
        run: The run.
        attempt: Which attempt at the run it is.
        folder: The working directory, a clone of this repository.
        import_path: Where to look for modules, after the node's own places.
        output: The study's folder.
        environment: Variables to set before torch is imported.
        timeout_minutes: When to give the run up.
    """
    os.environ.update(environment)
    os.chdir(folder)
    sys.path += [place for place in import_path if place not in sys.path]
    own = run_folder(output, run)
    done = read_result(own)
    if done is not None and (done.status == FINISHED or done.attempts == attempt):
        return done.to_json()  # of a node that died before it could hand it over
    own.mkdir(parents=True, exist_ok=True)
    # To the file descriptors, since libraries below Python write as well.
    with (own / LOG_FILE).open("wb") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    timer = threading.Timer((timeout_minutes or 0) * 60, give_up, [run, own, attempt, timeout_minutes])
    timer.daemon = True
    if timeout_minutes is not None:
        timer.start()
    try:
        return execute_when_free(run, output, attempt).to_json()
    finally:
        timer.cancel()


def execute_when_free(run: Run, output: Path, attempt: int) -> Result:
    """Train one run, after a wait for another process that has it: that of a node that has just died ends a bit later.

    Raises:
        BlockingIOError: The other process does not end.
    """
    deadline = time.monotonic() + BUSY_WAIT_SECONDS
    while True:
        try:
            return execute_run(run, output, attempt)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise
            time.sleep(POLL_SECONDS)


def give_up(run: Run, folder: Path, attempt: int, minutes: float) -> None:
    """Write that a run took too long and end its process; Ray then asks for the run again and gets this result."""
    reason = f"stopped after timeout_minutes: {minutes:g}"
    write_result(folder, summarize_run(run, folder, reason, minutes * 60, attempt))
    os._exit(1)
