"""Steps of a module that leave no trace in a run: what it logs is handed back in place of being logged."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers.logger import DummyLogger
from lightning.pytorch.utilities.data import extract_batch_size
from torchmetrics import Metric

from optimizers.checks import require_private
from optimizers.replaced_attribute import replaced_attribute


class Logged:
    """What a module has logged: weighted means of numbers, and metrics.

    Args:
        trainer: The trainer, whose ranks are averaged.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._sums: dict[str, torch.Tensor] = {}
        self.metrics: dict[str, Metric] = {}
        self.batch: Any = None

    def add(self, name: str, value: Any, *_: Any, batch_size: float | None = None, **__: Any) -> None:
        """Take in a value; the arguments are those of ``LightningModule.log``."""
        if isinstance(value, Metric):
            self.metrics[name] = value
            return
        size = float(batch_size or (extract_batch_size(self.batch) if self.batch is not None else 1))
        number = torch.as_tensor(value, device=self._trainer.strategy.root_device).detach().float()
        pair = torch.stack([number * size, torch.full_like(number, size)])
        self._sums[name] = self._sums[name] + pair if name in self._sums else pair

    def values(self) -> dict[str, float]:
        """Return the values by name, alike on all ranks."""
        reduce = self._trainer.strategy.reduce
        means = {name: reduce(pair, reduce_op="sum") for name, pair in sorted(self._sums.items())}
        found = {name: float(total / weight) for name, (total, weight) in means.items()}
        return found | {name: float(metric.compute()) for name, metric in self.metrics.items()}


@contextmanager
def quiet(trainer: Trainer, module: LightningModule) -> Iterator[Logged]:
    """Let a module log into the object that this context gives; loggers get nothing meanwhile."""
    logged, loggers = Logged(trainer), trainer.loggers
    trainer.loggers = [DummyLogger() for _ in loggers]
    try:
        with replaced_attribute(module, "log", logged.add):
            yield logged
    finally:
        trainer.loggers = loggers
        for metric in logged.metrics.values():
            metric.reset()


def moved_to_device(trainer: Trainer, module: LightningModule, batch: Any) -> Any:
    """Return a batch of the first loader as a step of the module gets it.

    Raises:
        RuntimeError: if lightning is of a version that this was not written for.
    """
    # The hook of the module or its datamodule.
    require_private(module, LightningModule, "_on_before_batch_transfer")
    batch = module._on_before_batch_transfer(trainer.precision_plugin.convert_input(batch), 0)
    return trainer.strategy.batch_to_device(batch, dataloader_idx=0)
