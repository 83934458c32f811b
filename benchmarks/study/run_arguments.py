"""The command line of a study's run: the arguments that ``python cli.py`` gets."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from benchmarks.study.grid import Run
from benchmarks.study.run_folder import HISTORY_FILE, run_folder

TENSORBOARD = "tensorboard"  # folder of all runs' files, within the study's
VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?::-(?P<instead>[^}]*))?\}")


def cli_arguments(run: Run, output: Path) -> list[str]:
    """Return the arguments of ``python cli.py`` that execute a run."""
    folder, events = run_folder(output, run), tensorboard_folder(run, output)
    arguments = ["fit", *(f"--config={file}" for file in run.cell.configs)]
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
        f"--trainer.logger.save_dir={output / TENSORBOARD}",
        f"--trainer.logger.name={events.parent.relative_to(output / TENSORBOARD)}",
        f"--trainer.logger.version={events.name}",
        "--trainer.logger.default_hp_metric=false",
        "--trainer.callbacks+=callbacks.TrainingSeconds",
    ]
    if run.cell.budget.seconds is not None:
        arguments.append(f"--trainer.callbacks.max_seconds={run.cell.budget.seconds:g}")
    arguments += [
        "--trainer.callbacks+=callbacks.PeakMemoryMonitor",
        "--trainer.callbacks+=benchmarks.study.history.RunHistory",
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


def tensorboard_folder(run: Run, output: Path) -> Path:
    """Return the folder of a run's TensorBoard files: the run's labels within ``output``, then `run_version`."""
    return Path(output, TENSORBOARD, *(_slug(label) for label in run.cell.labels.values()), run_version(run))


def run_version(run: Run) -> str:
    """Return the last part of the name of a run's TensorBoard files, which no label changes."""
    return f"seed{run.seed}-{run.id}"


def _variable(match: re.Match[str]) -> str:
    name, instead = match["name"], match["instead"]
    value = os.environ.get(name, instead)
    if value is None:
        raise ValueError(f"the study uses {match[0]}, but the environment variable {name} is not set")
    return value


def _slug(label: str) -> str:
    return "".join(c if c.isalnum() or c in "-._" else "-" for c in label).strip("-") or "none"
