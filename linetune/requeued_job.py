"""A run of a SLURM job that was queued again: it goes on from its own newest checkpoint."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch import Callback, LightningModule, Trainer

from callbacks.checkpoints.checkpoint_reading import saved_entry
from linetune.last_checkpoint import checkpoint_folders, newest_whole, say
from linetune.run_of_checkpoint import files_in

# Key of a checkpoint's entry.
STARTED_BY = "started_by"


def started_by(arguments: Sequence[str]) -> str | None:
    """Return what tells a run from all other runs and is the same when its SLURM job starts again.

    Args:
        arguments: The command line's; a job may run several commands.

    Returns:
        The job's number with the arguments; None outside SLURM and without arguments.
    """
    job = os.environ.get("SLURM_JOB_ID")
    return f"SLURM job {job}: {shlex.join(arguments)}" if job and arguments else None


class StartedBy(Callback):
    """Writes into each checkpoint which SLURM job and command its run was started by.

    Args:
        text: What :func:`started_by` returned.
    """

    def __init__(self, text: str) -> None:
        self.text = text

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint[STARTED_BY] = self.text


def checkpoint_of_requeued_job(config: Namespace, arguments: Sequence[str]) -> str | None:
    """Return the newest whole checkpoint of the run that an earlier start of this SLURM job began; one line names it.

    Other jobs may write into the same folders at the same time, so that the newest checkpoint of the experiment may be
    another run's.

    Args:
        config: The configuration of `fit`.
        arguments: The command line's.

    Returns:
        The path; None in the first start of a job, outside SLURM, and where there is no such checkpoint.
    """
    text = started_by(arguments)
    restarts = os.environ.get("SLURM_RESTART_COUNT", "0")
    if text is None or restarts == "0":
        return None
    job = f"SLURM job {os.environ['SLURM_JOB_ID']} starts again"
    folders = checkpoint_folders(config.trainer)
    if folders is None:
        say(f"{job}: its checkpoints are not found with this logger; give a ModelCheckpoint a dirpath")
        return None
    own = [file for file in files_in(folders) if saved_entry(file, STARTED_BY) == text]
    path = newest_whole(own, "fit")
    say(f"{job}: it goes on from {os.path.relpath(path)}" if path else f"{job}: it has saved no checkpoint")
    return None if path is None else str(path)
