"""Averages of weights that are not in float32."""

from __future__ import annotations

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.utilities import rank_zero_warn

from lightning_modules.trainer.trainer_callbacks import callbacks_of


def warn_of_rounded_averages(trainer: Trainer) -> None:
    """Warn where Lightning's averages of the weights are rounded to a lower precision.

    The average of a module in bfloat16 is in bfloat16 too, where what a step adds to it is rounded to nothing. Under
    ``bf16-true`` Lightning 2.6.6 makes it before it converts the module, so that it is in float32; each validation
    puts it into the module and back, which rounds it.

    Args:
        trainer: The trainer, after its module has been converted to its precision.
    """
    trained = [each for each in trainer.lightning_module.parameters() if each.requires_grad]
    types = {each.dtype for each in trained if each.is_floating_point() and torch.finfo(each.dtype).bits < 32}
    for callback in callbacks_of(trainer, WeightAveraging) if types else []:
        rank_zero_warn(
            f"trainer.callbacks: {type(callback).__name__}: the weights are in {min(map(str, types))}, and their "
            "average is rounded to that, so that it may stand still while they move; choose precision bf16-mixed, or "
            "load the model in float32"
        )
