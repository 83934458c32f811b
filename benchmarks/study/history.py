"""Callback that writes a run's values step by step into the CSV file that the report reads."""

from __future__ import annotations

import csv
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO, TypeVar

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from benchmarks.study.run_folder import COMPLETE, FIT_SECONDS, INTERPOLATION, PROCESSOR_SECONDS
from callbacks import PeakMemoryMonitor, TrainingSeconds

COLUMNS = ("step", "seconds", "name", "value")
FLUSH_EVERY_SECONDS = 5.0
DENSE_STEPS = 1000

Needed = TypeVar("Needed", bound=Callback)


class RunHistory(Callback):
    """Writes loss, step sizes, trials and validation metrics to a file, each with its step and second of training.

    Each line is one value: ``step,seconds,name,value``. Names are ``train/loss``, ``train/step_size/<unit>``,
    ``train/evaluations`` (trials of a search), ``train/memory_mib``, and every ``val`` metric as it is logged;
    ``val/majority`` is the share of the most frequent class among the validation labels. ``train/complete`` is written
    when training ends by its budget or by early stopping, but not when it is interrupted. After it come what
    `callbacks.PretrainedInterpolation` found (``interpolation/<name>``), and the seconds and processor seconds of the
    whole fit (``fit/seconds``, ``fit/processor_seconds``). All of the first 1000 steps are recorded and ever fewer of
    the later ones, so that files of long runs stay small.

    The labels are added to the module's hyperparameters as ``axis/<name>``, and so to TensorBoard's HPARAMS.

    Args:
        path: The file to write.
        labels: The run's level on every axis of the study, and its seed.

    Raises:
        MisconfigurationException: if `callbacks.TrainingSeconds` or `callbacks.PeakMemoryMonitor`, whose measurements
            are recorded, is not before this callback.
    """

    def __init__(self, path: str, labels: dict[str, Any]) -> None:
        self.path = Path(path)
        self.labels = labels
        self._file: TextIO | None = None
        self._flushed = 0.0
        self._started = (0.0, 0.0)
        self._last_step = 0
        self._recorded_step = 0
        self._clock: TrainingSeconds | None = None
        self._memory: PeakMemoryMonitor | None = None
        self._label_counts: dict[int, int] = {}
        self._majority_known = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._clock = self._before_this(trainer, TrainingSeconds)
        self._memory = self._before_this(trainer, PeakMemoryMonitor)
        self._started = (time.perf_counter(), time.process_time())
        # callbacks.HyperparameterLogger, which the command line adds to every run, logs these to TensorBoard.
        pl_module.hparams.update({f"axis/{axis}": level for axis, level in self.labels.items()})

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("w", newline="", encoding="utf-8")
            csv.writer(self._file).writerow(COLUMNS)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._file is None or trainer.global_step == self._last_step:
            return
        self._last_step = trainer.global_step
        if self._last_step % max(1, self._last_step // DENSE_STEPS) == 0:
            self._record_step(trainer)

    def _record_step(self, trainer: Trainer) -> None:
        self._recorded_step = self._last_step
        values: dict[str, Any] = {"train/loss": trainer.callback_metrics.get("train/loss")}
        for optimizer in trainer.optimizers:
            for i, group in enumerate(optimizer.param_groups):
                # Groups of one unit (its weights, its biases) share a step size.
                unit = group.get("unit") or group.get("name") or str(i)
                values[f"train/step_size/{unit}"] = group.get("lr")
            record = getattr(optimizer, "last_step", None)
            if record is not None:
                values["train/evaluations"] = getattr(record, "evaluations", None)
        self._write(values)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Mapping[str, torch.Tensor],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if self._majority_known or trainer.sanity_checking or dataloader_idx > 0:
            return
        labels = batch.get("labels") if isinstance(batch, Mapping) else None
        if labels is None or labels.is_floating_point():
            return
        for label, count in zip(*(t.tolist() for t in labels.unique(return_counts=True)), strict=True):
            self._label_counts[label] = self._label_counts.get(label, 0) + count

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking:
            return
        values = {name: float(v) for name, v in trainer.callback_metrics.items() if name.startswith("val")}
        if self._label_counts:
            values["val/majority"] = max(self._label_counts.values()) / sum(self._label_counts.values())
            self._majority_known = True
        self._write(values)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Lightning leaves its loops by an exception on SIGTERM and SIGINT, and then this is not called.
        if self._recorded_step < self._last_step:
            self._record_step(trainer)
        memory = None if self._memory is None else self._memory.peak / 2**20
        self._write({"train/memory_mib": memory, COMPLETE: 1.0})

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # After on_train_end of all callbacks, and so after a search at the end of the fit.
        found = {name: v for name, v in trainer.callback_metrics.items() if name.startswith(INTERPOLATION)}
        seconds, processor = time.perf_counter() - self._started[0], time.process_time() - self._started[1]
        self._write({**found, FIT_SECONDS: seconds, PROCESSOR_SECONDS: processor})

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._close()

    def _before_this(self, trainer: Trainer, kind: type[Needed]) -> Needed:
        # A callback before this one has measured a batch by the time that the batch is recorded.
        callbacks = list(getattr(trainer, "callbacks", []))
        for callback in callbacks[: callbacks.index(self)]:
            if isinstance(callback, kind):
                return callback
        raise MisconfigurationException(f"RunHistory needs callbacks.{kind.__name__} before it among the callbacks")

    def _write(self, values: Mapping[str, Any]) -> None:
        if self._file is None or self._clock is None:
            return
        writer = csv.writer(self._file)
        for name, value in values.items():
            if value is not None:
                writer.writerow((self._last_step, f"{self._clock.seconds:.6f}", name, repr(float(value))))
        if time.monotonic() - self._flushed > FLUSH_EVERY_SECONDS:
            self._file.flush()
            self._flushed = time.monotonic()

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
