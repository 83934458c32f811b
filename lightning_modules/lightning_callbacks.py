"""Lightning's callbacks that want something else of a module, each with what to use here."""

from __future__ import annotations

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import (
    BackboneFinetuning,
    BaseFinetuning,
    BatchSizeFinder,
    GradientAccumulationScheduler,
    LearningRateMonitor,
)

from lightning_modules.errors import ModelError


def check_callbacks(trainer: Trainer, module: LightningModule) -> None:
    """Refuse callbacks of Lightning 2.6 that would end with a traceback once training begins.

    Args:
        trainer: A trainer that is about to fit.
        module: The module that it fits.

    Raises:
        ModelError: one line: which callback, why, and what to use.
    """
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        name, why = type(callback).__name__, ""
        if isinstance(callback, GradientAccumulationScheduler):
            why = "it is for automatic optimization; give model.accumulate_grad_batches"
        elif isinstance(callback, BackboneFinetuning) and not hasattr(module, "backbone"):
            why = (
                f"{type(module).__name__} has no part called backbone; use callbacks.GradualUnfreezing, or "
                "model.trainable: head"
            )
        elif type(callback) is BaseFinetuning:
            why = "it is a base class; use callbacks.GradualUnfreezing, or a subclass of your own"
        elif isinstance(callback, BatchSizeFinder):
            name_of_size, data = callback._batch_arg_name, getattr(trainer, "datamodule", None)
            if not any(hasattr(owner, name_of_size) for owner in (module, data)):
                why = f"neither model nor data have {name_of_size}; give data.train_batch_size"
        if why:
            raise ModelError(f"trainer.callbacks: {name}: {why}")


def check_rate_monitor(trainer: Trainer) -> None:
    """Refuse Lightning's LearningRateMonitor for an optimizer that keeps no ``lr``.

    Raises:
        ModelError: if there is such an optimizer beside it.
    """
    if any(isinstance(callback, LearningRateMonitor) for callback in trainer.callbacks):  # type: ignore[attr-defined]
        for optimizer in trainer.optimizers:
            if any("lr" not in group for group in optimizer.param_groups):
                raise ModelError(
                    f"trainer.callbacks: LearningRateMonitor: {type(optimizer).__name__} keeps no learning rate (lr); "
                    "leave the callback out"
                )
