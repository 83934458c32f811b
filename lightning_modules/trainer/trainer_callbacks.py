"""A trainer's callbacks: those of a class, their order, and those that a module adds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from lightning.pytorch import Callback, Trainer

Kind = TypeVar("Kind", bound=Callback)


def callbacks_of(trainer: Trainer, kind: type[Kind] | tuple[type[Kind], ...]) -> list[Kind]:
    """Return a trainer's callbacks of a class, or of some classes, in their order."""
    return [each for each in trainer.callbacks if isinstance(each, kind)]  # type: ignore[attr-defined]


def move_to_front(callback: Callback, trainer: Trainer) -> None:
    """Let a callback that has to put something back be the first that Lightning tells of an exception.

    After one that raises in ``on_exception`` Lightning 2.6.6 tells no further callback, nor does it tear anything down.
    """
    others = [each for each in callbacks_of(trainer, Callback) if each is not callback]
    trainer.callbacks = [callback, *others]  # type: ignore[attr-defined]


def without_present(callbacks: Sequence[Callback], trainer: Trainer) -> list[Callback]:
    """Return those of a module's callbacks that no earlier run has left in its trainer.

    For a second one of a class Lightning says that it overrides a callback that was passed to the Trainer, which the
    user never did.

    Args:
        callbacks: The module's callbacks, which keep nothing from one run to the next.
        trainer: The module's trainer.
    """
    present = {type(callback) for callback in callbacks_of(trainer, Callback)}
    return [callback for callback in callbacks if type(callback) not in present]
