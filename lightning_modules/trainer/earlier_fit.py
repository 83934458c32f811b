"""Refusing a fit that would go on from what an earlier one has left in its Trainer or callbacks."""

from __future__ import annotations

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, WeightAveraging

from lightning_modules.errors import ModelError
from lightning_modules.trainer.trainer_callbacks import callbacks_of
from optimizers.checks import require_private

# What is used of WeightAveraging and is not public: after how many steps it last averaged.
_NOT_PUBLIC = "_latest_update_step"


def check_fresh(trainer: Trainer) -> None:
    """Refuse a fit that would train nothing, or go on from what callbacks remember of another one.

    A Trainer whose `max_epochs` is reached fits no further module, and callbacks keep their state when they are given
    to another Trainer (lightning 2.6.6): the second fold of a cross-validation is stopped by the score of the first, or
    tested with its best checkpoint.

    Args:
        trainer: A trainer that is about to fit, after it has restored what it resumes from.

    Raises:
        ModelError: one line: what is left of an earlier fit.
        RuntimeError: if lightning is of a version that this was not written for.
    """
    if trainer.ckpt_path:
        return
    if trainer.global_step > 0:
        if trainer.fit_loop.done:
            raise ModelError(
                f"trainer: an earlier fit has ended at step {trainer.global_step}, so that this one would train "
                "nothing; make a new Trainer for each fit"
            )
        return
    for callback in callbacks_of(trainer, Callback):
        what = _left_in(callback)
        if what:
            raise ModelError(
                f"trainer.callbacks: {type(callback).__name__} still has {what} of an earlier fit; make new callbacks "
                "for each fit"
            )


def _left_in(callback: Callback) -> str:
    """Return what a callback has from an earlier fit; empty if it is as new."""
    if isinstance(callback, EarlyStopping):
        return "the best score" if callback.best_score.isfinite() else ""
    if isinstance(callback, ModelCheckpoint):
        return "the checkpoints" if callback.best_model_path or callback.last_model_path else ""
    if isinstance(callback, WeightAveraging):
        require_private(callback, WeightAveraging, _NOT_PUBLIC)
        return "the number of steps" if callback._latest_update_step > 0 else ""
    return ""
