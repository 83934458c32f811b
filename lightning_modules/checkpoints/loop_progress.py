"""Where in an epoch Lightning goes on from a checkpoint: corrections of the counters that its loops save.

They concern Lightning 2.6.6, which goes on wrongly from three places. From a checkpoint of an epoch's last batch it
leaves out that epoch's validation and end, and counts the epoch twice. From one that was written where ``max_steps``
ended a run within an epoch it starts the next epoch. With ``max_steps``, it ends an epoch that had ended once more.
"""

from __future__ import annotations

import math
from typing import Any

from lightning.pytorch import Trainer


def correct_progress(loops: dict[str, Any], trainer: Trainer) -> None:
    """Correct the counters of a checkpoint that is being written, so that Lightning goes on from the right place.

    Args:
        loops: The checkpoint's entry ``loops``.
        trainer: The trainer that writes it.
    """
    fit = loops["fit_loop"]
    epoch, batch = fit["epoch_progress"], fit["epoch_loop.batch_progress"]
    if not batch["current"]["processed"]:
        return
    due = validates_after_batch(trainer, epoch["current"]["started"])
    epoch_ended = epoch["current"]["processed"] == epoch["current"]["started"]
    if epoch_ended and not batch["is_last_batch"]:
        # A run that stops within an epoch counts it as a whole one.
        for counters in epoch["total"], epoch["current"]:
            counters["processed"] = counters["completed"] = counters["started"] - 1
        if due:
            fit["epoch_loop.state_dict"]["_batches_that_stepped"] -= 1  # Lightning adds it once more
    elif not epoch_ended and batch["current"]["processed"] == batch["current"]["completed"] + 1:
        # Written at the end of a batch, before the validation after it.
        if due or batch["is_last_batch"]:
            batch["current"]["completed"] += 1
            batch["total"]["completed"] += 1
        if due:
            # As from within a validation of which no batch is done: it is run.
            validation = fit["epoch_loop.val_loop.batch_progress"]
            validation["current"] = dict.fromkeys(validation["current"], 0)
            validation["total"] = {"ready": 1, "started": 1, "processed": 0, "completed": 0}
        elif batch["is_last_batch"]:
            fit["epoch_loop.state_dict"]["_batches_that_stepped"] += 1


def repeats_validation(loops: dict[str, Any]) -> bool:
    """Return whether Lightning begins a validation anew from a checkpoint, which was written within one.

    Args:
        loops: The checkpoint's entry ``loops``.
    """
    total = loops["fit_loop"]["epoch_loop.val_loop.batch_progress"]["total"]
    return total["processed"] < total["started"]


def is_validation_of_a_stop(trainer: Trainer) -> bool:
    """Return whether a validation begins because the run stops (`Trainer.should_stop`) within an epoch."""
    epoch: Any = trainer.fit_loop.epoch_progress.current
    return trainer.should_stop and not validates_after_batch(trainer, epoch.started)


def validates_after_batch(trainer: Trainer, epoch: int) -> bool:
    """Return whether a validation follows the present batch, apart from one that a stop brings about.

    Args:
        trainer: The trainer.
        epoch: The number of the epoch, from 1.
    """
    every, interval = trainer.check_val_every_n_epoch, trainer.val_check_batch
    if not trainer.enable_validation or (every is not None and epoch % every != 0):
        return False
    if interval is None:
        return False  # by the clock
    if math.isinf(interval):
        return trainer.is_last_batch
    loop = trainer.fit_loop.epoch_loop
    return ((loop.total_batch_idx if every is None else loop.batch_idx) + 1) % int(interval) == 0


def is_within_epoch(trainer: Trainer) -> bool:
    """Return whether a resumed run has further batches of an epoch before it."""
    return not has_ended_epoch(trainer) and not trainer.is_last_batch


def has_ended_epoch(trainer: Trainer) -> bool:
    """Return whether a resumed run begins with a new epoch."""
    epoch: Any = trainer.fit_loop.epoch_progress.current
    return epoch.processed >= epoch.started


def complete_validation_counts(trainer: Trainer) -> None:
    """Count a batch that a validation had begun as done, once Lightning knows that it begins that validation anew.

    It counts the batch once more then. Left as they are, the totals are those of an interrupted validation until the
    next epoch, and a run that resumes from a checkpoint of this time validates on a single batch.
    """
    total: Any = trainer.fit_loop.epoch_loop.val_loop.batch_progress.total
    total.ready = total.started = total.completed = total.processed


def begin_next_epoch(trainer: Trainer) -> None:
    """Begin a resumed run's first epoch as any other one: its start, its iterator, its first batch."""
    loop: Any = trainer.fit_loop
    for counters in loop.epoch_progress.total, loop.epoch_progress.current:
        counters.ready = counters.started = counters.completed = counters.processed
    for each in (loop, loop.epoch_loop, loop.epoch_loop.val_loop):
        each.on_iteration_done()  # ends a restart
