"""What a fit measured at the validation whose weights its best checkpoint holds."""

from __future__ import annotations

from typing import Generic, TypeVar

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from callbacks.checkpoints.checkpoint_reading import saved_step
from callbacks.interpolation.pretrained_interpolation import PretrainedInterpolation
from callbacks.trainer.trainer_callbacks import callbacks_of

Result = TypeVar("Result")


class BestValidation(Generic[Result]):
    """Keeps the results of a fit's validations, and finds the one whose weights are the best checkpoint.

    ``ModelCheckpoint`` may save at other times than a validation, and the best checkpoint of a run that was resumed may
    be an older one: the checkpoint itself says of which step its weights are.

    Example::

        results = BestValidation()  # on_train_start
        results.add(trainer, accuracy)  # on_validation_end
        which, accuracy = results.chosen(trainer)  # on_train_end
    """

    def __init__(self) -> None:
        self._by_step: dict[int, Result] = {}

    def add(self, trainer: Trainer, result: Result) -> None:
        """Add the result of a validation."""
        self._by_step[trainer.global_step] = result

    def last(self) -> tuple[int, Result] | None:
        """Return the step and the result of the last validation; None before the first one."""
        return max(self._by_step.items(), key=lambda each: each[0], default=None)

    def best(self, trainer: Trainer) -> tuple[int, Result] | None:
        """Return the step and the result of the validation whose weights the best checkpoint holds, if there is one."""
        checkpoint = trainer.checkpoint_callback
        if not isinstance(checkpoint, ModelCheckpoint) or checkpoint.best_model_score is None:
            return None
        step = saved_step(checkpoint.best_model_path)
        return None if step is None or step not in self._by_step else (step, self._by_step[step])

    def chosen(self, trainer: Trainer) -> tuple[str, Result] | None:
        """Return the best checkpoint's result, else that of the last validation, with words for which it is.

        Before :class:`~callbacks.PretrainedInterpolation` has searched for other weights, the words say so.
        """
        best = self.best(trainer)
        if best is not None:
            searches = callbacks_of(trainer, PretrainedInterpolation)
            return f"best checkpoint{', as trained' if searches else ''}", best[1]
        last = self.last()
        return None if last is None else ("last validation", last[1])
