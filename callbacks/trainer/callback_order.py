"""The order in which Lightning calls a trainer's callbacks."""

from lightning.pytorch import Callback, Trainer


def move_to_front(callback: Callback, trainer: Trainer) -> None:
    """Let a callback that has to put something back be the first that Lightning tells of an exception.

    After one that raises in ``on_exception`` Lightning 2.6.6 tells no further callback, nor does it tear anything down.
    """
    others = [each for each in trainer.callbacks if each is not callback]  # type: ignore[attr-defined]
    trainer.callbacks = [callback, *others]  # type: ignore[attr-defined]
