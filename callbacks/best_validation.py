"""What a run measured at the validation whose weights its best checkpoint holds."""

from __future__ import annotations

from typing import Generic, TypeVar

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

Result = TypeVar("Result")


class BestValidation(Generic[Result]):
    """Keeps the result of the last validation of a fit, and that of the one whose weights are the best checkpoint.

    ``ModelCheckpoint`` saves after other callbacks have seen a validation: whether it has taken the weights shows at
    the next validation, or at the end.

    Example::

        results = BestValidation()
        results.start(trainer)  # on_train_start
        results.add(trainer, accuracy)  # on_validation_end
        which, accuracy = results.chosen(trainer)  # on_train_end
    """

    def __init__(self) -> None:
        self._latest: Result | None = None
        self._best: Result | None = None
        self._score: float | None = None

    def start(self, trainer: Trainer) -> None:
        """Forget the results; the best checkpoint of a run that is resumed is none of this part of it."""
        self._latest = self._best = None
        self._score = _best_score(trainer)

    def add(self, trainer: Trainer, result: Result) -> None:
        """Add the result of a validation."""
        self._notice_checkpoint(trainer)
        self._latest = result

    def chosen(self, trainer: Trainer) -> tuple[str, Result] | None:
        """Return the best checkpoint's result, or the last one where there is none, with words for which it is."""
        self._notice_checkpoint(trainer)
        if self._best is not None:
            return "best checkpoint", self._best
        return None if self._latest is None else ("last validation", self._latest)

    def _notice_checkpoint(self, trainer: Trainer) -> None:
        score = _best_score(trainer)
        if score != self._score:
            self._best, self._score = self._latest, score


def _best_score(trainer: Trainer) -> float | None:
    checkpoint = trainer.checkpoint_callback
    score = checkpoint.best_model_score if isinstance(checkpoint, ModelCheckpoint) else None
    return None if score is None else float(score)
