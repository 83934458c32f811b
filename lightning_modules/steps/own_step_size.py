"""Refusing what would overwrite the step size that an optimizer finds itself."""

from __future__ import annotations

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BackboneFinetuning, LearningRateFinder, StochasticWeightAveraging
from torch import nn
from torch.optim import Optimizer

from lightning_modules.errors import ModelError
from lightning_modules.trainer.trainer_callbacks import callbacks_of
from optimizers import traits

# Callbacks of Lightning that write learning rates.
_WRITE_RATES = (StochasticWeightAveraging, LearningRateFinder, BackboneFinetuning)


class OwnStepSize:
    """The step sizes of an optimizer that finds them itself, between two steps, in which no other code may set them."""

    def __init__(self) -> None:
        self._found: list[float] | None = None
        self._optimizer: Optimizer | None = None

    def check(self, optimizer: Optimizer, trainer: Trainer) -> None:
        """Compare with what the last step left behind.

        Raises:
            ModelError: if something has set step sizes since, or installed a learning-rate schedule.
        """
        if not traits(optimizer).sets_step_size:
            return
        name, now = type(optimizer).__name__, _step_sizes(optimizer)
        if trainer.lr_scheduler_configs:
            schedule = type(trainer.lr_scheduler_configs[0].scheduler).__name__
            raise ModelError(
                f"trainer.callbacks: something has installed {schedule}, and {name} finds its own step size; leave it "
                "out, or choose an optimizer with a learning rate"
            )
        is_same = optimizer is self._optimizer  # a callback may have put another one in its place
        if is_same and self._found is not None and len(self._found) == len(now) and self._found != now:
            before, after = next(pair for pair in zip(self._found, now, strict=True) if pair[0] != pair[1])
            raise ModelError(
                f"trainer.callbacks: something has set lr from {before:g} to {after:g} between two steps of {name}, "
                "which finds its own step size; leave it out, or choose an optimizer with a learning rate"
            )

    def note(self, optimizer: Optimizer) -> None:
        """Remember what a step has left behind."""
        self._found = _step_sizes(optimizer) if traits(optimizer).sets_step_size else None
        self._optimizer = optimizer


def check_rate_writers(optimizer: Optimizer, module: LightningModule) -> None:
    """Refuse callbacks of Lightning that write learning rates where the optimizer finds its own.

    Raises:
        ModelError: if there is one; or if StochasticWeightAveraging is to gather the statistics of batch normalisation,
            for which Lightning runs an epoch without a backward pass, under automatic optimization alone.
    """
    writers = callbacks_of(module.trainer, _WRITE_RATES)
    if writers and traits(optimizer).sets_step_size:
        raise ModelError(
            f"trainer.callbacks: {type(writers[0]).__name__} sets the learning rate, and {type(optimizer).__name__} "
            "finds its own step size; leave it out, or choose an optimizer with a learning rate"
        )
    has_statistics = any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in module.modules())
    if has_statistics and callbacks_of(module.trainer, StochasticWeightAveraging):
        raise ModelError(
            "trainer.callbacks: StochasticWeightAveraging cannot gather the statistics of batch normalisation "
            "under manual optimization; leave it out, or take lightning.pytorch.callbacks.EMAWeightAveraging"
        )


def _step_sizes(optimizer: Optimizer) -> list[float]:
    return [group["lr"] for group in optimizer.param_groups]
