"""Logging of a run's peak memory."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from callbacks.trainer.curve_axis import curve_end

_MIB = 2**20
_STATUS, _CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class PeakMemoryMonitor(Callback):
    """Logs peak memory in MiB as ``memory/peak_mib``, with every logged training step.

    On CUDA this is the most memory that torch has allocated on the module's device since the start of the run.
    Elsewhere it is the increase of the process's largest resident set since the start of the run, so that a model and
    data loaded before are not counted. Only Linux can reset the largest resident set: on other systems, a run after a
    larger one in the same process shows the larger peak.

    Every process measures its own memory; rank 0 logs.

    Attributes:
        peak: Peak memory of this process at the last measurement, in bytes.

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
            restart_peak()
            self._before = resident_bytes("VmRSS")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # Lightning logs at steps that are a multiple of the interval; the step has already been counted here.
        interval = getattr(trainer, "log_every_n_steps", 0)
        if interval and trainer.global_step % interval == 0:
            self.measure(pl_module.device)
            pl_module.log("memory/peak_mib", self.peak / _MIB, rank_zero_only=True)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.measure(pl_module.device)
        for logger in trainer.loggers:
            logger.log_metrics({"memory/peak_mib": self.peak / _MIB}, curve_end(trainer))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.measure(pl_module.device)

    def measure(self, device: torch.device) -> int:
        """Measure the peak so far, in bytes, store it in :attr:`peak` and return it."""
        if device.type == "cuda":
            self.peak = torch.cuda.max_memory_allocated(device)
        else:
            self.peak = max(0, resident_bytes("VmHWM") - self._before)
        return self.peak


def restart_peak() -> None:
    """Reset the largest resident set of this process, where the system can."""
    try:
        _CLEAR_REFS.write_text("5")
    except OSError:
        return


def resident_bytes(field: str) -> int:
    """Return the process's resident set in bytes: ``VmRSS`` is the current one, ``VmHWM`` the largest so far."""
    if _STATUS.exists():
        found = re.search(rf"^{field}:\s+(\d+) kB$", _STATUS.read_text(), re.MULTILINE)
        if found:
            return int(found.group(1)) * 1024
    import resource  # not available on Windows

    # In bytes on macOS, else in kibibytes; only the largest resident set is known.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
