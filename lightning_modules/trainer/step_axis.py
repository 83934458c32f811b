"""One axis for the curves of a run: optimizer steps, however many batches each is about."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, Trainer

from lightning_modules.errors import ModelError
from lightning_modules.trainer.trainer_callbacks import move_to_front
from optimizers.checks import require_private

# What is used of Trainer and is not public.
_NOT_PUBLIC = "_logger_connector.should_update_logs"


class StepAxis(Callback):
    """Lets Lightning count optimizer steps where batches are accumulated; :class:`ClosureModule` adds it.

    Lightning 2.6.6 counts batches on the axis of curves and for ``log_every_n_steps``, unless
    ``Trainer.accumulate_grad_batches`` says otherwise, which it refuses as an argument under manual optimization, and
    obeys once set. At the batches between two steps it would log the last values again: nothing is logged there.
    The first step is at 0, as in any Lightning run: ``Trainer.global_step`` is one further once a step is made.
    """

    def __init__(self) -> None:
        self._every: int | None = None
        self._is_told = False  # whether the module's own training_step has run

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        if stage == "fit":
            move_to_front(self, trainer)
            trainer.accumulate_grad_batches = pl_module.accumulate_grad_batches
            self._every = trainer.log_every_n_steps

    def mute(self, trainer: Any) -> None:
        """Log nothing at a batch without a step."""
        self._is_told = True
        trainer.log_every_n_steps = 0

    def unmute(self, trainer: Any) -> None:
        """Log as asked at a batch with a step."""
        self._is_told = True
        if self._every is not None:
            trainer.log_every_n_steps = self._every

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if not self._is_told and trainer.global_step == 0 and outputs:
            raise ModelError(
                f"{type(pl_module).__name__}.training_step returns a loss, and nothing makes a step of it: "
                "optimization is manual here; define compute_loss(batch), which returns the loss, in its place"
            )

    def is_written(self, trainer: Any) -> bool:
        """Return whether loggers get the values of this step, by what Lightning's own monitors ask.

        Raises:
            RuntimeError: if lightning is of a version that this was not written for.
        """
        require_private(trainer, Trainer, _NOT_PUBLIC)
        return bool(trainer._logger_connector.should_update_logs or trainer.fast_dev_run)

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        self._put_back(trainer)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self._put_back(trainer)

    def _put_back(self, trainer: Any) -> None:
        """Leave the trainer as it was, so that it takes another fit."""
        if self._every is not None:
            self.unmute(trainer)
            trainer.accumulate_grad_batches, self._every = 1, None
