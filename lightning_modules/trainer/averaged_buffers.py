"""Buffers that an average of the weights takes over as they are: whole numbers, and what a model computes itself."""

from __future__ import annotations

from functools import partial

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from lightning_modules.trainer.trainer_callbacks import callbacks_of


def average_no_constants(trainer: Trainer) -> None:
    """Have Lightning's averages of the weights copy integer buffers and computed ones, and average the others.

    torch 2.13 averages all buffers, and cuts an average of integers down: with a decay of 0.9 BERT's positions 0, 1, 2,
    3 become 0, 1, 2, 2. An average of equal numbers drifts by rounding: the frequencies of rotary positions by 2e-4 of
    their size in 10 000 steps. Validations use the averaged buffers.

    Args:
        trainer: The trainer, after the callbacks' ``setup``.

    Raises:
        RuntimeError: if this version of Lightning keeps the average elsewhere.
    """
    for callback in callbacks_of(trainer, WeightAveraging):
        average = getattr(callback, "_average_model", None)
        if not isinstance(average, AveragedModel):
            raise RuntimeError(f"{type(callback).__name__} of this Lightning has no AveragedModel in _average_model")
        average.update_parameters = partial(_update, average)  # type: ignore[method-assign]


def _update(average: AveragedModel, model: nn.Module) -> None:
    AveragedModel.update_parameters(average, model)
    averaged = _constants(average.module)
    with torch.no_grad():
        for name, buffer in _constants(model).items():
            averaged[name].copy_(buffer)


def _constants(module: nn.Module) -> dict[str, Tensor]:
    """Return the buffers that are integers or that ``state_dict`` leaves out, by name."""
    stored = module.state_dict().keys()
    return {name: each for name, each in module.named_buffers() if name not in stored or not each.is_floating_point()}
