"""Saves of Lightning's ModelCheckpoint in runs with manual optimization."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

import lightning
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_modules.checkpoints.loop_progress import validates_after_batch

# What is used of ModelCheckpoint and is not public.
_NOT_PUBLIC = ("_every_n_epochs", "_monitor_candidates", "_save_on_train_epoch_end", "_should_save_on_train_epoch_end")


def save_by_step_and_time(trainer: Trainer) -> None:
    """Let every ModelCheckpoint save by step and by time as it does under automatic optimization.

    Under manual optimization its hook `on_train_batch_end` (lightning 2.6.6) has a branch of its own. That one never
    looks at `train_time_interval`, saves with the metric of an earlier validation where one is about to run, and loads
    what a module has in `saved_models` into what it has in `layer`. The hook is called with a stand-in for the module,
    of which it reads `automatic_optimization` alone.

    A save that waits for the first value of its monitor is made at the end of a validation, and only where saves are
    not at the end of an epoch, which is the default where each epoch has one validation: so saves by step or time were
    lost. They are set to be after validations.

    Right before a validation within an epoch it saves with the score of the validation before that one, and what this
    validation finds is given to the weights of the next save: the best checkpoint is an interval late. Such a save
    waits for the validation, as Lightning lets one in an epoch's last batch wait.

    Args:
        trainer: A trainer whose fit is about to start.

    Raises:
        RuntimeError: if lightning is of a version that this was not written for.
    """
    for callback in trainer.checkpoint_callbacks:
        if type(callback) is not ModelCheckpoint:
            continue  # a subclass has its own ways
        missing = [name for name in _NOT_PUBLIC if not hasattr(callback, name)]
        if missing:
            raise RuntimeError(f"lightning {lightning.__version__}: ModelCheckpoint has no {', '.join(missing)}")
        if callback._every_n_epochs == 0 and callback._save_on_train_epoch_end is None:
            callback._save_on_train_epoch_end = False
        callback.on_train_batch_end = partial(_at_batch_end, callback)  # type: ignore[method-assign]


def _at_batch_end(callback: ModelCheckpoint, trainer: Trainer, *_: Any) -> None:
    module: Any = SimpleNamespace(automatic_optimization=True)
    waits = (
        callback.monitor is not None
        and validates_after_batch(trainer, trainer.current_epoch + 1)
        and not callback._should_save_on_train_epoch_end(trainer)
    )
    if waits:
        callback._monitor_candidates = lambda trainer: {}  # type: ignore[method-assign]
    try:
        ModelCheckpoint.on_train_batch_end(callback, trainer, module, None, None, 0)
    finally:
        vars(callback).pop("_monitor_candidates", None)
