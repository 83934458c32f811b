"""A trainer's callbacks: those of a class, and their order."""

from __future__ import annotations

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
