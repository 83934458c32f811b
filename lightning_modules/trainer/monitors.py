"""Checks, before training, of the logged values that callbacks and schedules monitor, and of their mode."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EarlyStopping, LambdaCallback

from lightning_modules.errors import ModelError
from lightning_modules.trainer.trainer_callbacks import callbacks_of

_Mode = Literal["min", "max"]
TRAINING = ("train/loss", "train/step_size")
# The packages whose callbacks log no validation loss or metric.
_OWN = ("lightning", "callbacks", "lightning_modules", "linetune")


def check_monitors(trainer: Trainer, modes: Mapping[str, _Mode], schedule: tuple[str, Any] | None) -> None:
    """Refuse what would wait for a value in vain, or take the worst for the best.

    That is the name of a logged value in another spelling, ``val_loss`` for ``val/loss``, a value of a validation in a
    run that has none, and the wrong ``mode``.

    Lightning's callbacks look for their value when the first validation is over, and end the run if there is none.
    Their ``mode`` is min unless told otherwise, as that of ReduceLROnPlateau is: of an accuracy the worst checkpoint is
    then kept as the best, and a run is stopped, or its learning rate reduced, because it improves.

    Other names are left to the callbacks, since callbacks log values too, and so is every name where the user has a
    callback of another package, which may log it.

    Args:
        trainer: A trainer that is about to fit.
        modes: Names of what its module logs in a validation, and whether the least or the largest is the best.
        schedule: What the module's schedule watches and its ``mode``, if it has one.

    Raises:
        ModelError: one line: who watches, what, and what to give.
    """
    callbacks = callbacks_of(trainer, Callback)
    watched = [(f"trainer.callbacks: {type(each).__name__}: ", getattr(each, "monitor", None)) for each in callbacks]
    for callback, (who, name) in zip(callbacks, watched, strict=True):
        _check_mode(f"{who}mode", getattr(callback, "mode", None), name, modes)
    if schedule is not None:
        monitor, mode = schedule
        watched.append(("model.lr_scheduler.", monitor))
        _check_mode("model.lr_scheduler.scheduler.mode", mode, monitor, modes)
    if any(type(each).__module__.split(".")[0] not in _OWN or isinstance(each, LambdaCallback) for each in callbacks):
        return
    logged = {_letters(name): name for name in (*TRAINING, *modes)}
    for who, name in watched:
        meant = logged.get(_letters(name)) if isinstance(name, str) else None
        if meant is not None and meant != name:
            raise ModelError(f"{who}monitor: {name} is not logged; it is called {meant}")
    if trainer.enable_validation:
        return
    waits = [type(each) is EarlyStopping and each.strict for each in callbacks]
    waits += [] if schedule is None else [schedule[1] in ("min", "max")]  # as that of ReduceLROnPlateau
    for (who, name), has_to_wait in zip(watched, waits, strict=True):
        if has_to_wait and name in modes:
            raise ModelError(
                f"{who}monitor: {name} is of a validation, and this run has none; give validation data, or leave out "
                "what watches it"
            )


def _check_mode(where: str, mode: Any, name: str | None, modes: Mapping[str, _Mode]) -> None:
    best = mode if name is None else modes.get(name, mode)
    if mode in ("min", "max") and mode != best:
        better = "lower" if best == "min" else "higher"
        raise ModelError(f"{where}: {mode} for {name}, which is better when it is {better}; give {best}")


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
