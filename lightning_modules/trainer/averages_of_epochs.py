"""Lightning's average of the weights at the starts of epochs."""

from __future__ import annotations

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import StochasticWeightAveraging
from lightning.pytorch.utilities import rank_zero_warn

from lightning_modules.trainer.trainer_callbacks import callbacks_of


def warn_of_averages_beside_checkpoints(trainer: Trainer) -> None:
    """Warn that StochasticWeightAveraging leaves its average to the module alone.

    Lightning 2.6.6 puts it there after the last checkpoint is written, and takes it of the weights at the starts of
    epochs. So neither a checkpoint, nor what is exported or tested from one, has it, and no average has the last epoch.

    Args:
        trainer: The trainer of a fit.
    """
    if callbacks_of(trainer, StochasticWeightAveraging):
        rank_zero_warn(
            "trainer.callbacks: StochasticWeightAveraging: no checkpoint has its average, so that the model that is "
            "exported or tested is without it, and the last epoch is not in it; take "
            "lightning.pytorch.callbacks.EMAWeightAveraging"
        )
