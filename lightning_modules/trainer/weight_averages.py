"""Lightning's averages of the weights: which buffers they average, and warnings where they are not what they seem."""

from __future__ import annotations

from functools import partial

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import StochasticWeightAveraging, WeightAveraging
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from lightning_modules.trainer.trainer_callbacks import callbacks_of


def prepare_averages(trainer: Trainer) -> None:
    """Let averages of the weights leave constant buffers as they are, and warn of averages that are rounded or lost.

    Args:
        trainer: The trainer of a fit, after the callbacks' ``setup`` and the conversion of its module to its precision.

    Raises:
        RuntimeError: if this version of Lightning keeps the average elsewhere.
    """
    for callback in callbacks_of(trainer, WeightAveraging):
        _average_no_constants(callback)
        _warn_of_rounding(callback, trainer.lightning_module)
    if callbacks_of(trainer, StochasticWeightAveraging):
        # Lightning 2.6.6 puts the average into the module after the last checkpoint is written, and takes it of the
        # weights at the starts of epochs: no checkpoint has it, and it has nothing of the last epoch.
        rank_zero_warn(
            "trainer.callbacks: StochasticWeightAveraging: no checkpoint has its average, so that the model that is "
            "exported or tested is without it, and the last epoch is not in it; take "
            "lightning.pytorch.callbacks.EMAWeightAveraging"
        )


def _warn_of_rounding(callback: WeightAveraging, module: nn.Module) -> None:
    """Warn where the average of the weights is rounded to a lower precision.

    The average of a module in bfloat16 is in bfloat16 too, where what a step adds to it is rounded to nothing. Under
    ``bf16-true`` Lightning 2.6.6 makes it before it converts the module, so that it is in float32; each validation
    puts it into the module and back, which rounds it.
    """
    trained = [each for each in module.parameters() if each.requires_grad]
    types = {each.dtype for each in trained if each.is_floating_point() and torch.finfo(each.dtype).bits < 32}
    if types:
        rank_zero_warn(
            f"trainer.callbacks: {type(callback).__name__}: the weights are in {min(map(str, types))}, and their "
            "average is rounded to that, so that it may stand still while they move; choose precision bf16-mixed, or "
            "load the model in float32"
        )


def _average_no_constants(callback: WeightAveraging) -> None:
    """Have an average of the weights copy integer buffers and computed ones, and average the others.

    torch 2.13 averages all buffers, and cuts an average of integers down: with a decay of 0.9 BERT's positions 0, 1, 2,
    3 become 0, 1, 2, 2. An average of equal numbers drifts by rounding: the frequencies of rotary positions by 2e-4 of
    their size in 10 000 steps. Validations use the averaged buffers.
    """
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
