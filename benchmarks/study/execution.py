"""Execution of a study's run in this process, and the result that it leaves."""

from __future__ import annotations

import contextlib
import io
import shutil
import sys
import time
import traceback
from pathlib import Path
from typing import TextIO

from benchmarks.study.grid import Cell, Run
from benchmarks.study.results import FINISHED, Result
from benchmarks.study.run_arguments import cli_arguments, tensorboard_folder
from benchmarks.study.run_folder import (
    HISTORY_FILE,
    RESULT_FILE,
    last_error_line,
    locked,
    read_result,
    run_folder,
    write_result,
)
from benchmarks.study.summary import summarize_run

BUSY_EXIT_STATUS = 75  # EX_TEMPFAIL: another process is executing the same run


def execute_run(run: Run, output: Path, attempt: int = 1) -> Result:
    """Train one run in this process and write its result into its folder; a run that has finished is not repeated.

    The folder is locked during the run.

    Returns:
        The result, finished or failed; a failure is never raised.

    Raises:
        BlockingIOError: Another process is executing this run.
    """
    folder = run_folder(output, run)
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        known = read_result(folder)
        if known is not None and known.status == FINISHED:
            return known  # made by another job since the command was written
        for stale in (RESULT_FILE, HISTORY_FILE):
            (folder / stale).unlink(missing_ok=True)
        arguments = cli_arguments(run, output)
        shutil.rmtree(tensorboard_folder(run, output), ignore_errors=True)
        started = time.time()
        errors = ErrorTail(sys.stderr)
        with contextlib.redirect_stderr(errors):
            reason = call_command_line(arguments, errors)
        result = summarize_run(run, folder, reason, time.time() - started, attempt)
        write_result(folder, result)
    return result


def call_command_line(arguments: list[str], errors: ErrorTail) -> str:
    """Call ``cli.py`` in this process.

    Returns:
        The reason of a failure in one line, else an empty text.
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
