"""The folder of a run's own files."""

import contextlib
import os
import shutil
from typing import NamedTuple

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from callbacks.files.file_systems import is_remote
from optimizers.checks import require_private


def run_folder(trainer: Trainer) -> str:
    """Return the folder of a run: the one that ``ModelCheckpoint`` puts ``checkpoints`` into, whatever the logger.

    ``Trainer.log_dir`` is that folder only for the TensorBoard and CSV loggers, and not for the first with a
    ``sub_dir``; with others it is a folder that all runs share. In a distributed run every rank must call this; all get
    the folder of rank 0.

    Args:
        trainer: A trainer that is running.

    Returns:
        ``save_dir/name/version`` of the first logger; without a logger ``default_root_dir``.

    Example::

        os.path.join(run_folder(trainer), "predictions.tsv")
    """
    folder, logger = os.path.expanduser(trainer.log_dir or trainer.default_root_dir), trainer.logger
    if isinstance(logger, TensorBoardLogger) and logger.sub_dir:
        return folder.removesuffix(os.sep + os.path.expandvars(logger.sub_dir))
    if logger is None or isinstance(logger, TensorBoardLogger | CSVLogger):
        return folder
    version = logger.version if isinstance(logger.version, str) else f"version_{logger.version}"
    # Some loggers have a version on rank 0 only.
    return trainer.strategy.broadcast(os.path.join(folder, str(logger.name), version))


class RunFolders(NamedTuple):
    """Folders that a process has made for a run.

    Args:
        own: The run's own, one per logger.
        around: Those around them that did not exist, the outermost first.
    """

    own: list[str]
    around: list[str]

    def remove(self) -> None:
        """Remove the run's own folders with all in them, and those around them that hold nothing else."""
        for folder in self.own:
            shutil.rmtree(folder, ignore_errors=True)
        for folder in reversed(self.around):
            with contextlib.suppress(OSError):
                os.rmdir(folder)


def claim_run_folders(trainer: Trainer) -> RunFolders:
    """Make the run's folder of each logger, under a number that no other process has taken.

    The TensorBoard and CSV loggers take the number after the highest that they see (lightning 2.6.6), so that processes
    that start at once write into one folder. Making a folder succeeds in one process alone. A version that was given
    stays as it is. The command line does this; from Python, call it before ``trainer.fit`` where several processes
    start in one folder.

    Args:
        trainer: A trainer; of its ranks, the main process makes the folders.

    Returns:
        The folders that were made.

    Raises:
        OSError: if a folder cannot be made.
        RuntimeError: if lightning is of a version that this was not written for.

    Example::

        claim_run_folders(trainer)
        trainer.fit(module, data)
    """
    made = RunFolders([], [])
    for logger in trainer.loggers if trainer.is_global_zero else []:
        if not isinstance(logger, TensorBoardLogger | CSVLogger) or is_remote(logger.root_dir):
            continue
        kind = TensorBoardLogger if isinstance(logger, TensorBoardLogger) else CSVLogger
        require_private(logger, kind, "_version")
        while logger._version is None:
            folder = os.path.join(logger.root_dir, f"version_{logger.version}")
            folder = os.path.expandvars(os.path.expanduser(folder))
            around = missing_folders(os.path.dirname(folder))
            try:
                os.makedirs(folder)
            except FileExistsError:
                if not os.path.isdir(folder):
                    raise
                logger._version = None  # another process was faster: look again
            else:
                made.own.append(folder)
                made.around.extend(around)
    return made


def shown_path(path: str) -> str:
    """Return a path as a line for the user has it: from the present folder on, or as it is on a remote file system."""
    return path if is_remote(path) else os.path.relpath(path)


def missing_folders(folder: str) -> list[str]:
    """Return which of a folder and those around it do not exist, the outermost first."""
    missing: list[str] = []
    while folder and not os.path.isdir(folder):
        missing.insert(0, folder)
        folder = os.path.dirname(folder)
    return missing
