"""Logs what a line search does."""

from __future__ import annotations

import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch.optim import Optimizer

from optimizers import LineSearchOptimizer, SaLSA


class StepSizeMonitor(Callback):
    """Logs step sizes and searches, per unit, to every logger of the Trainer.

    For each unit of a line search (``model`` where there is one step size for all), at ``<quantity>/<unit>``:

    - ``step_size``: the step size in force; ``slope``: the slope at the unit's last search; ``smoothed_slope`` and
      ``smoothed_decrease``: their exponential averages over searches;
    - ``search_frequency``: searches per step; ``trials`` and ``backtracks``: evaluations, and rejected ones among them,
      per step; all three are means over the steps since the last entry;
    - ``search_interval``: how many steps SaLSA waits between searches now;
    - ``failures``: searches that found no step size, and ``skipped``: steps that were not finite, since the start.

    Any other optimizer that leaves a record in ``last_step`` gets ``step_size/model``, ``trials/model`` and
    ``backtracks/model`` of its last step. ``seconds_per_step`` is the mean time of a step, without loading its data.

    Args:
        every_n_steps: Log every so many optimizer steps, at least 1.

    Raises:
        ValueError: if every_n_steps is less than 1.

    Example::

        Trainer(callbacks=[StepSizeMonitor(every_n_steps=10)])
    """

    def __init__(self, every_n_steps: int = 1) -> None:
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps: {every_n_steps} is not allowed; at least 1")
        self.every_n_steps = every_n_steps
        self._counted: dict[str, dict[str, int]] = {}  # per unit, the counters at the last entry
        self._logged_at = 0
        self._axis = 0
        self._seconds = 0.0
        self._started = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._logged_at = trainer.global_step
        self._seconds = 0.0
        self._counted = {
            name: {counter: group[counter] for counter in _COUNTERS}
            for optimizer in trainer.optimizers
            if isinstance(optimizer, LineSearchOptimizer)
            for name, group in _units(optimizer).items()
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
        # The step that Lightning's own logging counts at this point, so that all curves share one axis.
        self._axis = trainer.fit_loop.epoch_loop._batches_that_stepped
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
            for logger in trainer.loggers:
                logger.log_metrics(metrics, step=self._axis)
        self._logged_at = trainer.global_step
        self._seconds = 0.0

    def _metrics(self, optimizer: Optimizer, steps: int) -> dict[str, float]:
        if not isinstance(optimizer, LineSearchOptimizer):
            record = getattr(optimizer, "last_step", None)
            if record is None:
                return {}
            return {
                "step_size/model": record.step_size,
                "trials/model": record.evaluations,
                "backtracks/model": record.backtracks,
            }
        metrics: dict[str, float] = {}
        for name, group in _units(optimizer).items():
            before = self._counted.get(name, dict.fromkeys(_COUNTERS, 0))
            per_step = {counter: (group[counter] - before[counter]) / steps for counter in _COUNTERS}
            self._counted[name] = {counter: group[counter] for counter in _COUNTERS}
            metrics |= {
                f"step_size/{name}": group["lr"],
                f"slope/{name}": group["slope"],
                f"smoothed_slope/{name}": group["average_slope"],
                f"smoothed_decrease/{name}": group["average_decrease"],
                f"search_frequency/{name}": per_step["searches"] + per_step["failures"],
                f"trials/{name}": per_step["trials"],
                f"backtracks/{name}": per_step["backtracks"],
                f"failures/{name}": group["failures"],
                f"skipped/{name}": group["skipped"],
            }
            if isinstance(optimizer, SaLSA):
                metrics[f"search_interval/{name}"] = optimizer.unit_reports()[name].search_interval or 1.0
        return metrics


_COUNTERS = ("searches", "failures", "trials", "backtracks")


def _units(optimizer: LineSearchOptimizer) -> dict[str, dict[str, Any]]:
    """What each unit remembers, by the unit's name."""
    return {unit.name or "model": unit.groups[0] for unit in optimizer.units()}
