"""Logging of step sizes and searches."""

from __future__ import annotations

import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch.optim import Optimizer

from callbacks.trainer.curve_axis import curve_end
from optimizers import UnitReport

# Counts of a report that are logged as rates per step.
_COUNTERS = ("searches", "failures", "trials", "backtracks")


class StepSizeMonitor(Callback):
    """Logs step sizes and searches, per unit, to every logger of the Trainer.

    For each unit of an optimizer with ``unit_reports()`` (``model`` where one step size serves all), at
    ``search/<quantity>/<unit>``:

    - ``step_size``: the step size in force; ``slope``: the slope at the unit's last search; ``smoothed_slope`` and
      ``smoothed_decrease``: their exponential averages over searches;
    - ``search_frequency``: searches per step; ``trials`` and ``backtracks``: evaluations, and rejected ones among them,
      per step; all three are means over the steps since the last entry;
    - ``search_interval``: how many steps may pass between two searches now, where the optimizer decides that;
    - ``failures``: searches that found no step size, and ``skipped``: steps that were not finite, since the start.

    An optimizer with a record in ``last_step`` alone gets ``step_size``, ``trials`` and ``backtracks`` of it.
    ``search/seconds_per_step`` is the mean time of a step, without loading its data.

    Args:
        every_n_steps: Log every so many optimizer steps, at least 1.

    Raises:
        MisconfigurationException: if every_n_steps is less than 1.

    Example::

        Trainer(callbacks=[StepSizeMonitor(every_n_steps=10)])
    """

    def __init__(self, every_n_steps: int = 1) -> None:
        if every_n_steps < 1:
            raise MisconfigurationException(f"every_n_steps: {every_n_steps} is not allowed; at least 1")
        self.every_n_steps = every_n_steps
        self._counted: dict[str, dict[str, int]] = {}  # per unit, the counters at the last entry
        self._logged_at = 0
        self._seconds = 0.0
        self._started = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._logged_at = trainer.global_step
        self._seconds = 0.0
        self._counted = {
            name: _counts(report)
            for optimizer in trainer.optimizers
            for name, report in _unit_reports(optimizer).items()
        }
        if not any(hasattr(optimizer, "last_step") for optimizer in trainer.optimizers):
            names = ", ".join(type(optimizer).__name__ for optimizer in trainer.optimizers) or "no optimizer"
            rank_zero_warn(f"StepSizeMonitor has nothing to log: {names} keeps no record of its steps")

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._started = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._seconds += time.perf_counter() - self._started
        if trainer.global_step - self._logged_at >= self.every_n_steps:
            self._log(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_step > self._logged_at:
            self._log(trainer)

    def _log(self, trainer: Trainer) -> None:
        steps = trainer.global_step - self._logged_at
        metrics: dict[str, float] = {}
        for optimizer in trainer.optimizers:
            metrics |= self._metrics(optimizer, steps)
        if metrics:
            metrics["seconds_per_step"] = self._seconds / steps
            metrics = {f"search/{name}": value for name, value in metrics.items()}  # one section of TensorBoard
            for logger in trainer.loggers:
                logger.log_metrics(metrics, curve_end(trainer))
        self._logged_at = trainer.global_step
        self._seconds = 0.0

    def _metrics(self, optimizer: Optimizer, steps: int) -> dict[str, float]:
        reports = _unit_reports(optimizer)
        record = getattr(optimizer, "last_step", None)
        if not reports and record is not None:
            return {
                "step_size/model": record.step_size,
                "trials/model": record.evaluations,
                "backtracks/model": record.backtracks,
            }
        metrics: dict[str, float] = {}
        for name, report in reports.items():
            counts, before = _counts(report), self._counted.get(name, dict.fromkeys(_COUNTERS, 0))
            per_step = {counter: (counts[counter] - before[counter]) / steps for counter in _COUNTERS}
            self._counted[name] = counts
            metrics |= {
                f"step_size/{name}": report.step_size,
                f"slope/{name}": report.slope,
                f"smoothed_slope/{name}": report.smoothed_slope,
                f"smoothed_decrease/{name}": report.smoothed_decrease,
                f"search_frequency/{name}": per_step["searches"] + per_step["failures"],
                f"trials/{name}": per_step["trials"],
                f"backtracks/{name}": per_step["backtracks"],
                f"failures/{name}": report.failures,
                f"skipped/{name}": report.skipped,
            }
            if report.search_interval is not None:
                metrics[f"search_interval/{name}"] = report.search_interval
        return metrics


def _unit_reports(optimizer: Optimizer) -> dict[str, UnitReport]:
    """What an optimizer tells about its units, by their names; nothing where it has no `unit_reports`."""
    return optimizer.unit_reports() if hasattr(optimizer, "unit_reports") else {}


def _counts(report: UnitReport) -> dict[str, int]:
    return {counter: getattr(report, counter) for counter in _COUNTERS}
