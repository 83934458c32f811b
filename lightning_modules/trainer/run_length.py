"""The length of a run, for optimizers and schedules that need it."""

from __future__ import annotations

import math
from typing import NamedTuple

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.utilities import rank_zero_warn
from torch.optim import Optimizer

from lightning_modules.trainer.trainer_callbacks import callbacks_of
from optimizers import traits

# Of a stream nobody knows how many batches an epoch has.
HOW_TO_LIMIT = "max_steps, or max_epochs with training data that tell their length"


class FitStart(NamedTuple):
    """Where a trainer's counters stand as a fit begins: at 0, unless the trainer has made another fit before.

    Args:
        step: The optimizer step.
        epoch: The epoch.
    """

    step: int = 0
    epoch: int = 0


class RunLength(NamedTuple):
    """How long a run is.

    Args:
        steps_per_epoch: Optimizer steps of an epoch, 1 at least; None for a stream of unknown length.
        total_steps: Optimizer steps of the run, 1 at least; None for a run without a foreseeable end.
        epochs: Epochs of the run, the last one perhaps not whole; None where that is unknown.
    """

    steps_per_epoch: int | None
    total_steps: int | None
    epochs: int | None


def run_length(trainer: Trainer, accumulate_grad_batches: int, start: FitStart) -> RunLength:
    """Return the length of the fit that a trainer is about to run.

    Args:
        trainer: A trainer that has its model and data.
        accumulate_grad_batches: Batches per optimizer step.
        start: Where the fit begins; its limits count from 0.
    """
    trainer.fit_loop.setup_data()  # the Trainer has not counted its batches yet
    batches = trainer.num_training_batches
    steps_per_epoch = None if math.isinf(batches) else max(1, math.ceil(batches / accumulate_grad_batches))
    limits = [trainer.max_steps - start.step] if trainer.max_steps != -1 else []
    epochs = None if trainer.max_epochs in (None, -1) else trainer.max_epochs - start.epoch
    if steps_per_epoch is not None and epochs is not None:
        limits.append(steps_per_epoch * epochs)
    # A run of no steps (max_epochs: 0) is prepared like any other.
    total_steps = max(1, min(limits)) if limits else None
    if steps_per_epoch is not None and total_steps is not None:
        return RunLength(steps_per_epoch, total_steps, math.ceil(total_steps / steps_per_epoch))
    return RunLength(steps_per_epoch, total_steps, epochs)


def warn_without_length(optimizer: Optimizer) -> None:
    """Warn that an optimizer with a schedule of its own has been told neither the run's length nor where it is.

    Args:
        optimizer: An optimizer that is about to make its first step.
    """
    known = getattr(optimizer, "total_steps", None), getattr(optimizer, "progress", None)
    if traits(optimizer).takes_progress and known == (None, None):
        rank_zero_warn(
            f"{type(optimizer).__name__}: the run's number of steps is unknown, so that it has neither warm-up nor "
            f"decay; give the trainer {HOW_TO_LIMIT}; for a run of so many seconds, callbacks.TrainingSeconds and "
            "callbacks.ScheduleBySeconds in place of max_time"
        )


def warn_of_time_limit(optimizer: Optimizer, trainer: Trainer) -> None:
    """Warn that a run that its `max_time` ends has not come to the end of its optimizer's schedule.

    Args:
        optimizer: An optimizer that is about to make its first step.
        trainer: The trainer.
    """
    total, progress = getattr(optimizer, "total_steps", None), getattr(optimizer, "progress", None)
    if not traits(optimizer).takes_progress or total is None or progress is not None:
        return
    if any(timer.time_remaining() is not None for timer in callbacks_of(trainer, Timer)):
        rank_zero_warn(
            f"{type(optimizer).__name__}: its schedule is over the {total} steps of max_epochs or max_steps, whatever "
            "max_time is: where that ends the run before, the learning rate has not decayed; for a run of so many "
            "seconds, callbacks.TrainingSeconds and callbacks.ScheduleBySeconds in place of max_time"
        )
