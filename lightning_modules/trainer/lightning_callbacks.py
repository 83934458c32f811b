"""Lightning's callbacks and Trainer arguments that a ClosureModule does not go with, and what to use instead."""

from __future__ import annotations

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import (
    BackboneFinetuning,
    BaseFinetuning,
    BatchSizeFinder,
    GradientAccumulationScheduler,
    LearningRateFinder,
    LearningRateMonitor,
)
from lightning.pytorch.utilities import GradClipAlgorithmType, rank_zero_info

from lightning_modules.errors import ModelError
from lightning_modules.trainer.trainer_callbacks import callbacks_of


def check_trainer(trainer: Trainer, module: LightningModule) -> None:
    """Refuse what a Trainer was given for automatic optimization.

    Lightning 2.6.6 refuses the arguments too, and advises to remove them or to switch to automatic optimization; of the
    callbacks each would end with a traceback once training begins.

    Args:
        trainer: A trainer that is about to fit.
        module: The module that it fits.

    Raises:
        ModelError: one line: the argument, and the module's; or which callback, why, and what to use.
    """
    kind = type(module).__name__
    if trainer.accumulate_grad_batches != 1:
        argument = f"accumulate_grad_batches={trainer.accumulate_grad_batches}"
        raise ModelError(
            f"trainer.accumulate_grad_batches: {kind} does this itself; give it {argument}, on the command line "
            f"--model.{argument}"
        )
    if trainer.gradient_clip_val:
        value = trainer.gradient_clip_val
        algorithm = GradClipAlgorithmType(trainer.gradient_clip_algorithm or "norm").value
        raise ModelError(
            f"trainer.gradient_clip_val: {kind} does this itself; give it "
            f"gradient_clip=lightning_modules.GradientClip({value}, {algorithm!r}), on the command line "
            f"--model.gradient_clip.value={value} --model.gradient_clip.algorithm={algorithm}"
        )
    for callback in callbacks_of(trainer, Callback):
        why = _why_not(callback, module)
        if why:
            raise ModelError(f"trainer.callbacks: {type(callback).__name__}: {why}")


def _why_not(callback: Callback, module: LightningModule) -> str:
    """Return why a callback would end the run, and what to use; empty if it would not."""
    if isinstance(callback, GradientAccumulationScheduler):
        return "it is for automatic optimization; give model.accumulate_grad_batches"
    if isinstance(callback, BackboneFinetuning) and not hasattr(module, "backbone"):
        return (
            f"{type(module).__name__} has no part called backbone; use callbacks.GradualUnfreezing, or "
            "model.trainable: head"
        )
    if type(callback) is BaseFinetuning:
        return "it is a base class; use callbacks.GradualUnfreezing, or a subclass of your own"
    return ""


def leave_out_searches(trainer: Trainer) -> None:
    """Let LearningRateFinder search nothing in a fit that goes on from a checkpoint; refuse BatchSizeFinder there.

    A search restores what was there before it from a checkpoint of its own, after which Lightning 2.6.6 has forgotten
    the one that the fit goes on from: its weights stay, and the run begins anew. That checkpoint holds the rate that
    was found, but not the batch size.

    Args:
        trainer: The trainer of such a fit, before the callbacks' ``on_fit_start``.

    Raises:
        ModelError: if there is a BatchSizeFinder.
    """
    for callback in callbacks_of(trainer, BatchSizeFinder):
        raise ModelError(
            f"trainer.callbacks: {type(callback).__name__}: it searches at the start of a run, and this one goes on "
            "from a checkpoint; leave it out, and give the batch size that it has found"
        )
    for finder in callbacks_of(trainer, LearningRateFinder):
        finder.on_fit_start = _search_nothing  # type: ignore[method-assign]


def put_searches_back(trainer: Trainer) -> None:
    """Let LearningRateFinder search in a fit from the start, after one that went on from a checkpoint."""
    for callback in callbacks_of(trainer, LearningRateFinder):
        vars(callback).pop("on_fit_start", None)


def _search_nothing(trainer: Trainer, pl_module: LightningModule) -> None:
    rank_zero_info("LearningRateFinder: the run goes on from a checkpoint, with its learning rate")


def check_rate_monitor(trainer: Trainer) -> None:
    """Refuse Lightning's LearningRateMonitor for an optimizer that keeps no ``lr``.

    Raises:
        ModelError: if there is such an optimizer beside it.
    """
    if callbacks_of(trainer, LearningRateMonitor):
        for optimizer in trainer.optimizers:
            if any(group.get("lr") is None for group in optimizer.param_groups):
                raise ModelError(
                    f"trainer.callbacks: LearningRateMonitor: {type(optimizer).__name__} keeps no learning rate (lr); "
                    "leave the callback out"
                )
