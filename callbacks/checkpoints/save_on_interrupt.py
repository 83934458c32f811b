"""Saving a checkpoint when a run is asked to end, by Ctrl-C, SIGTERM or SLURM's signal before a job is requeued."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from types import FrameType
from typing import Any, NoReturn

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.environments import SLURMEnvironment
from lightning.pytorch.utilities import rank_zero_only

from callbacks.files.run_folder import shown_path
from optimizers.checks import require_private

# `Trainer.fit(ckpt_path="last")` looks for names that begin with ModelCheckpoint.CHECKPOINT_NAME_LAST
# (lightning 2.6.6).
FILE_NAME = "last-interrupted.ckpt"
# What is used of Trainer and is not public: two connectors, and what of each. A strategy for one device does not know
# the cluster that it runs in, and the last step before the end is logged by nobody else.
_NOT_PUBLIC = ("_accelerator_connector.cluster_environment", "_logger_connector.update_train_step_metrics")


class SaveOnInterrupt(Callback):
    """Ends a fit after the batch at hand on Ctrl-C, SIGTERM or SLURM's signal, with a checkpoint to go on from.

    The checkpoint is ``last-interrupted.ckpt`` in the folder of the trainer's ModelCheckpoint, where
    ``Trainer.fit(ckpt_path="last")`` finds it; without a ModelCheckpoint nothing is saved.
    One line says what was kept and how to go on. The process ends with the usual status, 130 after Ctrl-C and 143 after
    SIGTERM, where Lightning's own handling ends with 1 and 0 (lightning 2.6.6). A second Ctrl-C ends it at once.
    Several ranks end together, whichever got the signal. Another version of Lightning that lacks what this callback
    needs is named when a fit starts.

    Where Lightning requeues SLURM's jobs (``SLURMEnvironment(auto_requeue=True)``, its default under ``srun``), so does
    this callback, once the checkpoint is written; the status is 138 after SIGUSR1. Lightning's own handler saves in the
    middle of a step, of a search's trial as well, and runs collectives while other ranks run those of the step
    (lightning 2.6.6).

    The command line has it in every fit.

    Example::

        Trainer(callbacks=[SaveOnInterrupt()])
    """

    def __init__(self) -> None:
        self._asked: int | None = None
        self._is_active = False
        self._is_saving = False
        self._is_ending = False
        self._previous: dict[int, Any] = {}
        self._process = os.getpid()
        self._trainer: Trainer | None = None
        self._launcher: Any = None  # of the processes of the other ranks, where this one has started them
        self._requeue_signal: int | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        require_private(trainer, Trainer, *_NOT_PUBLIC)  # rather than at an interruption
        self._asked, self._is_active, self._is_ending = None, False, False
        self._process = os.getpid()
        # Before the loaders' processes are forked, which inherit it and go on with their batch.
        self._handle(signal.SIGINT)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._is_active, self._trainer = True, trainer
        self._launcher = trainer.strategy.launcher
        # After Lightning has put its own there.
        self._handle(signal.SIGTERM)
        self._requeue_signal = _requeue_signal(trainer)
        if self._requeue_signal is not None:
            self._handle(self._requeue_signal)

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        # After an epoch's last batch its end is due: a run that is complete with it ends as usual.
        if not trainer.is_last_batch and self._is_to_end(trainer):
            trainer._logger_connector.update_train_step_metrics()  # which Lightning does after this hook
            self._end(trainer)

    def on_validation_batch_end(self, trainer: Trainer, *_: Any) -> None:
        # Ranks may differ in their number of batches: several of them finish the validation.
        if trainer.world_size == 1 and not trainer.sanity_checking and self._is_to_end(trainer):
            self._end(trainer)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if not (self._is_saving and trainer.validating):
            return
        # Lightning (2.6.6) goes on after a validation that has counted a batch, but makes one anew that has begun its
        # first.
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.val_loop.batch_progress"]
        for counts in (progress["total"], progress["current"]):
            counts.update(ready=1, started=1, processed=0, completed=0)
        progress["is_last_batch"] = False

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop_handling(*self._previous)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        # At an end that was asked for, SLURM's SIGTERM may still be to come.
        self._stop_handling(*([signal.SIGINT] if self._is_ending else self._previous))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        # Lightning has put back the handlers that it found when training began, this one among them.
        self._stop_handling(signal.SIGINT)

    def _handle(self, number: int) -> None:
        if threading.current_thread() is threading.main_thread():
            previous = signal.signal(number, self._on_signal)
            if previous != self._on_signal:
                self._previous[number] = previous

    def _stop_handling(self, *numbers: int) -> None:
        self._is_active = False  # a handler that stays, after an exception, hands on what it gets
        if threading.current_thread() is threading.main_thread():
            for number in set(numbers) & self._previous.keys():
                signal.signal(number, self._previous[number])

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            return  # a process of a loader
        if self._is_ending and number != signal.SIGINT:
            return  # Lightning's own handler would begin a collective that other ranks take no part in
        # A callback that raises in on_exception keeps Lightning from telling this one.
        if not self._is_active or (self._trainer is not None and self._trainer.interrupted):
            previous = self._previous.get(number)
            if callable(previous):
                previous(number, frame)
        elif self._asked == signal.SIGINT == number:
            signal.signal(number, signal.SIG_DFL)
            os.kill(self._process, number)
        else:
            self._asked = number
            # Who ends a run ends its loaders' processes with it: timeout, systemd, SLURM. Where one of them dies torch
            # would raise an error in the middle of the step, and the run needs no more batches.
            signal.signal(signal.SIGCHLD, _go_on)
            name = signal.Signals(number).name
            # No print: the signal may have come in the middle of one.
            how = "; a second Ctrl-C ends it at once" if number == signal.SIGINT else ""
            os.write(2, f"\n{name}: the run ends after this batch{how}\n".encode())
            if number == signal.SIGTERM and self._launcher is not None:
                self._launcher.kill(number)

    def _is_to_end(self, trainer: Trainer) -> bool:
        asked = self._asked is not None
        if trainer.world_size > 1:
            asked = trainer.strategy.reduce_boolean_decision(asked, all=False)
        return asked and self._is_active

    def _end(self, trainer: Trainer) -> NoReturn:
        number = self._agreed_signal(trainer)
        self._is_active, self._is_ending = False, True
        self._save(trainer, signal.Signals(number).name)
        if number == self._requeue_signal:
            _requeue()
        raise SystemExit(128 + number)

    def _agreed_signal(self, trainer: Trainer) -> int:
        """Return the signal that the run ends with, the same on all ranks; one to end comes before one to requeue."""
        if self._requeue_signal is not None:
            is_requeued = self._asked in (None, self._requeue_signal)
            if trainer.world_size > 1:
                is_requeued = trainer.strategy.reduce_boolean_decision(is_requeued, all=True)
            if is_requeued:
                return self._requeue_signal
        return self._asked if self._asked in (signal.SIGINT, signal.SIGTERM) else signal.SIGTERM

    def _save(self, trainer: Trainer, name: str) -> None:
        where = f"{name} in epoch {trainer.current_epoch} after step {trainer.global_step}"
        savers = [each for each in trainer.checkpoint_callbacks if isinstance(each, ModelCheckpoint) and each.dirpath]
        if not savers or trainer.fast_dev_run:  # type: ignore[attr-defined]
            _say(f"interrupted by {where}: nothing is kept, since this run writes no checkpoints")
            return
        path = os.path.join(str(savers[0].dirpath), FILE_NAME)
        self._is_saving = True
        try:
            trainer.save_checkpoint(path, weights_only=False)  # unset, a line about it is printed
        except OSError as error:
            _say(f"interrupted by {where}: {error}")
        else:
            shown = shown_path(path)
            _say(f"interrupted by {where}: kept {shown}; go on by the same command with --ckpt_path {shown}")
        finally:
            self._is_saving = False


def _go_on(number: int, frame: FrameType | None) -> None:
    """Do nothing: with SIG_DFL Python reports a race for a signal that came just before."""


def _requeue_signal(trainer: Trainer) -> int | None:
    """Return the signal on which Lightning requeues a run's job; None if there is none, or a user's own handler."""
    environment = trainer._accelerator_connector.cluster_environment
    if not isinstance(environment, SLURMEnvironment) or not environment.auto_requeue:
        return None
    number = environment.requeue_signal
    if number is None:
        return None
    is_lightnings = str(getattr(signal.getsignal(number), "__module__", None)).startswith("lightning.")
    return number if is_lightnings else None


@rank_zero_only
def _requeue() -> None:
    """Let SLURM queue the job again under its number; say why where it does not."""
    array, job = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ["SLURM_JOB_ID"]
    if array is not None:
        job = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    try:
        done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True)
        reason = "" if done.returncode == 0 else done.stderr or f"exit status {done.returncode}"
    except OSError as error:
        reason = str(error)
    _say(f"SLURM job {job}: {'not requeued: ' + ' '.join(reason.split()) if reason else 'requeued'}")


@rank_zero_only
def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
