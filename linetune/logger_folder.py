"""The folder that a configuration names for TensorBoard's files."""

from __future__ import annotations

import os
from pydoc import locate

from jsonargparse import Namespace
from lightning.pytorch.loggers import TensorBoardLogger


def expand_save_dir(trainer: Namespace) -> None:
    """Put the values of environment variables into the ``save_dir`` of TensorBoardLogger.

    The logger does so for its own files, and ModelCheckpoint does not (lightning 2.6.6): a run was divided between
    ``$SCRATCH/runs`` and a folder called ``$SCRATCH``.

    Args:
        trainer: The trainer's section of the configuration; changed in place.
    """
    loggers = trainer.get("logger")
    for logger in loggers if isinstance(loggers, list) else [loggers]:
        if isinstance(logger, Namespace) and locate(logger.class_path) is TensorBoardLogger:
            logger.init_args.save_dir = os.path.expandvars(logger.init_args.save_dir)
