"""Logs the most memory that a run has needed so far."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

_MIB = 2**20
_STATUS, _CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class PeakMemoryMonitor(Callback):
    """Logs peak memory in MiB as ``memory/peak_mib``, with every logged training step.

    On CUDA it is the most that torch has allocated on the module's device since the start of the run. Elsewhere it is
    the largest resident set that the process has had since the start of the run, above what it was before: model and
    data that are there already do not count. Where the system cannot restart the count of the largest resident set
    (Linux can), a run after a larger one in the same process shows the larger one's.

    Every process measures itself; rank 0 logs.

    Attributes:
        peak: Bytes at the last measurement, of this process.

    Example::

        monitor = PeakMemoryMonitor()
        Trainer(callbacks=[monitor]).fit(module, data)
        print(monitor.peak / 2**20)
    """

    def __init__(self) -> None:
        self.peak = 0
        self._before = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        device = trainer.strategy.root_device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        else:
            _restart_peak()
            self._before = _resident_bytes("VmRSS")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # Lightning logs a metric of step s when s is a multiple; this runs after the step has been counted.
        interval = getattr(trainer, "log_every_n_steps", 0)
        if interval and trainer.global_step % interval == 0:
            self.measure(pl_module.device)
            pl_module.log("memory/peak_mib", self.peak / _MIB, rank_zero_only=True)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.measure(pl_module.device)
        for logger in trainer.loggers:
            logger.log_metrics({"memory/peak_mib": self.peak / _MIB}, step=trainer.global_step)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.measure(pl_module.device)

    def measure(self, device: torch.device) -> int:
        """Reads the peak so far, in bytes, into :attr:`peak` and returns it."""
        if device.type == "cuda":
            self.peak = torch.cuda.max_memory_allocated(device)
        else:
            self.peak = max(0, _resident_bytes("VmHWM") - self._before)
        return self.peak


def _restart_peak() -> None:
    """Has the system count the largest resident set from now on, where it can."""
    try:
        _CLEAR_REFS.write_text("5")
    except OSError:
        return


def _resident_bytes(field: str) -> int:
    """The process's resident set: ``VmRSS`` now, ``VmHWM`` the largest so far."""
    if _STATUS.exists():
        found = re.search(rf"^{field}:\s+(\d+) kB$", _STATUS.read_text(), re.MULTILINE)
        if found:
            return int(found.group(1)) * 1024
    import resource  # not there on Windows

    # macOS counts bytes, the others kibibytes; both know the largest alone.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
