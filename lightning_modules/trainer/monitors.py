"""What callbacks and schedules watch, compared with what is logged before an epoch has been spent."""

from __future__ import annotations

import re
from collections.abc import Iterable

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import LambdaCallback

from lightning_modules.errors import ModelError
from lightning_modules.trainer.trainer_callbacks import callbacks_of

TRAINING = ("train/loss", "train/step_size")
# The packages whose callbacks log no validation loss or metric.
_OWN = ("lightning", "callbacks", "lightning_modules", "linetune")


def check_monitors(trainer: Trainer, metrics: Iterable[str], schedule: str | None) -> None:
    """Refuse the name of a logged value in another spelling: ``val_loss`` for ``val/loss``.

    Lightning's callbacks look for their value when the first validation is over, and end the run if there is none.
    Other names are left to them, since callbacks log values too, and so is every name where the user has a callback of
    another package, which may log it.

    Args:
        trainer: A trainer that is about to fit.
        metrics: Names of what its module logs in a validation.
        schedule: What the module's schedule watches, if it has one.

    Raises:
        ModelError: one line: who watches, what, and its name.
    """
    callbacks = callbacks_of(trainer, Callback)
    if any(type(each).__module__.split(".")[0] not in _OWN or isinstance(each, LambdaCallback) for each in callbacks):
        return
    logged = {_letters(name): name for name in (*TRAINING, *metrics)}
    watched = [
        (f"trainer.callbacks: {type(callback).__name__}: monitor", getattr(callback, "monitor", None))
        for callback in callbacks
    ]
    for who, name in [*watched, ("model.lr_scheduler.monitor", schedule)]:
        meant = logged.get(_letters(name)) if isinstance(name, str) else None
        if meant is not None and meant != name:
            raise ModelError(f"{who}: {name} is not logged; it is called {meant}")


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
