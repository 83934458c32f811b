"""The folder of a run's own files."""

import os

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger


def run_folder(trainer: Trainer) -> str:
    """Return the folder of a run: the one that ``ModelCheckpoint`` puts ``checkpoints`` into, whatever the logger.

    ``Trainer.log_dir`` is that folder only for the TensorBoard and CSV loggers; with others it is a folder that all
    runs share. In a distributed run every rank must call this; all get the folder of rank 0.

    Args:
        trainer: A trainer that is running.

    Returns:
        ``save_dir/name/version`` of the first logger, without the ones that it lacks; without a logger
        ``default_root_dir``.

    Example::

        os.path.join(run_folder(trainer), "predictions.tsv")
    """
    folder = trainer.log_dir or trainer.default_root_dir
    if trainer.logger is None or isinstance(trainer.logger, TensorBoardLogger | CSVLogger):
        return folder
    name, version = trainer.logger.name, trainer.logger.version
    version = f"version_{version}" if isinstance(version, int) else version
    # Some loggers have a version on rank 0 only.
    return trainer.strategy.broadcast(os.path.join(folder, *filter(None, (name, version))))
