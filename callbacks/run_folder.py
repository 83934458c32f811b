"""The folder of a run's own files."""

import os

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger


def run_folder(trainer: Trainer) -> str:
    """Return the folder of a run: the one that ``ModelCheckpoint`` puts ``checkpoints`` into, whatever the logger.

    ``Trainer.log_dir`` is that folder for TensorBoard and CSV files alone; for other loggers it is a folder that all
    runs share. All ranks have to ask, and get rank 0's answer.

    Args:
        trainer: A trainer that is running.

    Returns:
        The first logger's ``save_dir/name/version``, as far as it has them; without a logger ``default_root_dir``.

    Example::

        os.path.join(run_folder(trainer), "predictions.tsv")
    """
    folder = trainer.log_dir or trainer.default_root_dir
    if trainer.logger is None or isinstance(trainer.logger, TensorBoardLogger | CSVLogger):
        return folder
    name, version = trainer.logger.name, trainer.logger.version
    version = f"version_{version}" if isinstance(version, int) else version
    # Some loggers know their version on rank 0 alone.
    return trainer.strategy.broadcast(os.path.join(folder, *filter(None, (name, version))))
