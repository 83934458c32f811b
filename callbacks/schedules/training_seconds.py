"""Clock of training time, without validation, and a budget in seconds that stops the run."""

from __future__ import annotations

import time
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException


class TrainingSeconds(Callback):
    """Counts the seconds spent in training batches and stops the run when a budget is used up.

    Only the time from the start to the end of each training batch counts, so that the budget does not depend on how
    often a run is validated or saved. On CUDA the device is synchronised at both ends, so that queued work counts for
    the batch that queued it. The batch in which the budget runs out is completed; then the run is validated and ends.
    In a distributed run all processes use the clock of rank 0.

    The count is logged as ``train/seconds`` with every step. It starts at 0 in every ``fit``; a run resumed from a
    checkpoint continues its count.

    Args:
        max_seconds: The budget in seconds of training. Default: none, count only.

    Raises:
        MisconfigurationException: if the budget is not above 0.

    Example::

        Trainer(max_epochs=-1, callbacks=[TrainingSeconds(max_seconds=60.0)])
    """

    def __init__(self, max_seconds: float | None = None) -> None:
        if max_seconds is not None and not max_seconds > 0:
            raise MisconfigurationException(
                f"max_seconds: {max_seconds} is not allowed; a number above 0, or null for no budget"
            )
        self.max_seconds = max_seconds
        self.seconds = 0.0
        self._batch_started = 0.0

    @property
    def progress(self) -> float:
        """Used share of the budget, from 0 to 1; 0 without a budget."""
        return 0.0 if self.max_seconds is None else min(1.0, self.seconds / self.max_seconds)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            self.seconds = 0.0  # a checkpoint's count is loaded after this

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop_at_the_end(trainer)  # the run that goes on may have used its budget up

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._batch_started = _now(pl_module.device)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.seconds += _now(pl_module.device) - self._batch_started
        if trainer.world_size > 1:
            # The end of the run and schedules over seconds must be the same on all ranks.
            self.seconds = trainer.strategy.broadcast(self.seconds)
        pl_module.log("train/seconds", self.seconds, on_step=True, on_epoch=False)
        self._stop_at_the_end(trainer)

    def _stop_at_the_end(self, trainer: Trainer) -> None:
        if self.max_seconds is not None and self.seconds >= self.max_seconds:
            trainer.should_stop = True

    def state_dict(self) -> dict[str, float]:
        return {"seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        self.seconds = state_dict["seconds"]


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
