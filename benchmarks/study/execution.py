"""Execution of one run of a study in its own process: its command line, and the result that it writes."""

from __future__ import annotations

import contextlib
import csv
import fcntl
import io
import itertools
import json
import math
import os
import re
import shutil
import statistics
import sys
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

import yaml

from benchmarks.study.grid import Cell, Run
from benchmarks.study.machine import describe_machine
from benchmarks.study.results import FAILED, FINISHED, Result
from benchmarks.study.yaml_file import read_yaml

BUSY_EXIT_STATUS = 75  # EX_TEMPFAIL: another process is executing the same run
WARM_UP_STEPS = 5

VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?::-(?P<instead>[^}]*))?\}")

RESULT_FILE = "result.json"
HISTORY_FILE = "history.csv"
FIT_SECONDS, PROCESSOR_SECONDS = "fit/seconds", "fit/processor_seconds"
INTERPOLATION = "interpolation/"
COMPLETE = "train/complete"  # the history's last value, written unless training was interrupted
LOG_FILE = "run.log"


def run_folder(output: Path, run: Run) -> Path:
    """Return the folder of a run's files."""
    return output / "runs" / run.id


def cli_arguments(run: Run, output: Path) -> list[str]:
    """Return the arguments of ``python cli.py`` that execute a run."""
    folder = run_folder(output, run)
    history = "benchmarks.study.history.RunHistory"
    arguments = ["fit"]
    for file in run.cell.configs:
        arguments.append(f"--config={file}")
    # Before the study's settings, so that these can override them.
    arguments += [
        "--trainer.devices=1",
        "--trainer.enable_checkpointing=false",
        "--trainer.enable_progress_bar=false",
        "--trainer.enable_model_summary=false",
        "--trainer.num_sanity_val_steps=0",
        "--trainer.log_every_n_steps=1",
    ]
    # A class before its arguments, which it would take away, whichever of two axes each of them is of.
    settings = sorted(run.cell.settings.items(), key=lambda setting: setting[0].count("."))
    arguments += [f"--{key}={command_line_value(value)}" for key, value in settings]
    arguments += [
        f"--seed_everything={run.seed}",
        f"--trainer.max_steps={run.cell.budget.steps or -1}",
        f"--trainer.max_epochs={run.cell.budget.epochs or -1}",
        f"--trainer.default_root_dir={folder}",
        "--trainer.logger=lightning.pytorch.loggers.TensorBoardLogger",
        f"--trainer.logger.save_dir={output / 'tensorboard'}",
        f"--trainer.logger.name={'/'.join(_slug(label) for label in run.cell.labels.values())}",
        f"--trainer.logger.version={_version(run)}",
        "--trainer.logger.default_hp_metric=false",
        "--trainer.callbacks+=callbacks.TrainingSeconds",
    ]
    if run.cell.budget.seconds is not None:
        arguments.append(f"--trainer.callbacks.max_seconds={run.cell.budget.seconds:g}")
    arguments += [
        "--trainer.callbacks+=callbacks.PeakMemoryMonitor",
        f"--trainer.callbacks+={history}",
        f"--trainer.callbacks.path={folder / HISTORY_FILE}",
        f"--trainer.callbacks.labels={json.dumps({**run.cell.labels, 'seed': run.seed})}",
    ]
    return arguments


def command_line_value(value: Any) -> str:
    """Return a setting's value as an argument of the command line: text unchanged, everything else as JSON.

    ``${NAME}`` in a text is replaced by the environment variable of that name, ``${NAME:-default}`` by the default
    where the variable is not set.

    Raises:
        ValueError: The variable is not set and has no default.
    """
    return VARIABLE.sub(_variable, value) if isinstance(value, str) else json.dumps(value)


def execute_run(run: Run, output: Path, attempt: int = 1) -> Result:
    """Train one run in this process and write its result into its folder.

    The folder is locked during the run; the system releases the lock when the process ends, however it ends.

    Returns:
        The result, finished or failed; a failure is never raised.

    Raises:
        BlockingIOError: Another process is executing this run.
    """
    folder = run_folder(output, run)
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder / "lock"):
        for stale in (RESULT_FILE, HISTORY_FILE):
            (folder / stale).unlink(missing_ok=True)
        arguments = cli_arguments(run, output)
        events = tensorboard_folder(arguments)
        shutil.rmtree(events, ignore_errors=True)
        started = time.time()
        errors = ErrorTail(sys.stderr)
        with contextlib.redirect_stderr(errors):
            reason = call_command_line(arguments, errors)
        result = summarize_run(run, folder, reason, time.time() - started, attempt)
        write_result(folder, result)
    return result


def tensorboard_folder(arguments: Sequence[str]) -> Path:
    """Return the folder of a run's TensorBoard files."""
    parts = dict(argument[2:].split("=", 1) for argument in arguments if argument.startswith("--trainer.logger."))
    return Path(parts["trainer.logger.save_dir"], parts["trainer.logger.name"], parts["trainer.logger.version"])


def summarize_run(run: Run, folder: Path, reason: str, wall_seconds: float, attempt: int = 1) -> Result:
    """Compute a run's result from its history.

    A run has failed if it was interrupted, if its metric was never validated, or if its last validation loss is not
    finite: a model of NaNs still has an accuracy, that of a constant prediction.
    """
    columns = read_history(folder / HISTORY_FILE)
    validation = {name: values for name, values in columns.items() if name.startswith("val") and values}
    majority = [value for _, _, value in validation.pop("val/majority", [])]
    if not reason and COMPLETE not in columns:
        reason = "interrupted before the end of training"
    if not reason and run.cell.metric not in validation:
        reason = (
            f"the metric {run.cell.metric} was never logged by a validation (logged: {', '.join(sorted(validation))})"
        )
        if not validation:
            reason = "no validation: the budget ends before the first epoch does; set trainer.val_check_interval"
    if not reason and "val/loss" in validation and not math.isfinite(validation["val/loss"][-1][2]):
        reason = f"diverged: the last val/loss is {validation['val/loss'][-1][2]}"
    losses = columns.get("train/loss", [])
    per_step = [(later[1] - earlier[1]) / (later[0] - earlier[0]) for earlier, later in itertools.pairwise(losses)]
    settled = per_step[WARM_UP_STEPS:] or per_step
    memory = columns.get("train/memory_mib", [])
    once = {name: values[-1][2] for name, values in columns.items() if values}
    return Result(
        id=run.id,
        status=FAILED if reason else FINISHED,
        reason=reason,
        labels=dict(run.cell.labels),
        seed=run.seed,
        final={name: values[-1][2] for name, values in validation.items()},
        best={name: _best(name, [value for _, _, value in values]) for name, values in validation.items()},
        majority=majority[-1] if majority else None,
        steps=losses[-1][0] if losses else None,
        train_seconds=losses[-1][1] if losses else None,
        seconds_per_step=statistics.median(settled) if settled else None,
        peak_memory_mib=memory[-1][2] if memory else None,
        wall_seconds=wall_seconds,
        attempts=attempt,
        machine=describe_machine(),
        fit_seconds=once.get(FIT_SECONDS),
        processor_seconds=once.get(PROCESSOR_SECONDS),
        interpolation={
            name.removeprefix(INTERPOLATION): value for name, value in once.items() if name.startswith(INTERPOLATION)
        },
    )


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


def is_locked(folder: Path) -> bool:
    """Return whether a process is executing the run of this folder."""
    path = folder / "lock"
    if not path.exists():
        return False
    try:
        with _locked(path):
            return False
    except BlockingIOError:
        return True


def last_error_line(text: str) -> str:
    """Return the last line of a log that contains "error", or else its last line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    told = [line for line in lines if "error" in line.lower()]
    return (told or lines or ["no output"])[-1][:500]


def call_command_line(arguments: list[str], errors: ErrorTail) -> str:
    """Call ``cli.py`` in this process.

    Returns:
        The reason of a failure in one line, else an empty text. That is also the case after SIGTERM, on which Lightning
        exits with status 0.
    """
    # LightningCLI warns if it is given arguments while the process has arguments of its own.
    argv, sys.argv = sys.argv, ["cli.py"]
    try:
        import cli

        cli.main(arguments)
    except SystemExit as stop:
        if stop.code in (None, 0):
            return ""
        reason = stop.code if isinstance(stop.code, str) else last_error_line(errors.tail())
        return reason.removeprefix("linetune: error: ")
    except KeyboardInterrupt:
        return "interrupted"
    except Exception as error:
        traceback.print_exc()
        return f"{type(error).__name__}: {' '.join(str(error).split())}"[:500]
    finally:
        sys.argv = argv
    return ""


def check_cell(cell: Cell, output: Path) -> str:
    """Let ``cli.py`` check the arguments of a cell without training; return its error message, or an empty text."""
    arguments = [*cli_arguments(Run("check", cell, 0), output), "--print_config"]
    errors = ErrorTail(io.StringIO())
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        return call_command_line(arguments, errors)


def other_data(runs: Sequence[Run], output: Path) -> Counter[tuple[str | None, str | None]]:
    """Count finished runs whose data folder differs from the one that the study names now.

    Ids of runs depend on the text ``${GLUE_DIR}``, not on the variable's value.

    Returns:
        The number of runs for each ``(folder then, folder now)``; ``None`` means no folder. Runs without a resolved
        configuration beside their TensorBoard files are not counted.
    """
    configs = {path.parent.name: path for path in (output / "tensorboard").rglob("config.yaml")}
    counts: Counter[tuple[str | None, str | None]] = Counter()
    for run in runs:
        setting, config = run.cell.settings.get("data.data_dir"), configs.get(_version(run))
        if config is None or not isinstance(setting, str) or not VARIABLE.search(setting):
            continue
        data = read_yaml(config)["data"]
        then = data.get("init_args", data).get("data_dir")
        # A variable that is not set is an error when a run starts, not here.
        with contextlib.suppress(ValueError):
            now = yaml.safe_load(command_line_value(setting))
            if _real_path(then) != _real_path(now):
                counts[then, now] += 1
    return counts


def _real_path(folder: str | None) -> str | None:
    return None if folder is None else os.path.realpath(Path(folder).expanduser())


def _version(run: Run) -> str:
    return f"seed{run.seed}-{run.id}"


def _variable(match: re.Match[str]) -> str:
    name, instead = match["name"], match["instead"]
    value = os.environ.get(name, instead)
    if value is None:
        raise ValueError(f"the study uses {match[0]}, but the environment variable {name} is not set")
    return value


def _best(name: str, values: Sequence[float]) -> float:
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return math.nan
    return min(finite) if name.endswith("loss") else max(finite)


def _slug(label: str) -> str:
    return "".join(c if c.isalnum() or c in "-._" else "-" for c in label).strip("-") or "none"


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


class ErrorTail(io.TextIOBase):
    """Text stream that writes to another one and keeps the last 8000 characters."""

    def __init__(self, through: TextIO) -> None:
        self._through = through
        self._tail = ""

    def write(self, text: str) -> int:
        self._tail = (self._tail + text)[-8000:]
        return self._through.write(text)

    def flush(self) -> None:
        self._through.flush()

    def tail(self) -> str:
        return self._tail
