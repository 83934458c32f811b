"""Exchange of the gradients of parameters that are unfrozen during a fit under DDP."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy
from torch import nn
from torch.nn.parallel import DistributedDataParallel


class ExchangedGradients(Callback):
    """Wraps the model again where other parameters train than before; :class:`ClosureModule` adds it.

    DDP exchanges gradients of the parameters that could be trained when it wrapped the model. Of those that a callback
    such as Lightning's ``BaseFinetuning`` unfreezes later each rank would take its own gradient, and so train a model
    of its own.
    """

    def __init__(self) -> None:
        self._trainable: list[str] = []  # when the model was wrapped

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        strategy = trainer.strategy
        if isinstance(strategy, DDPStrategy):
            wrap = type(strategy).configure_ddp.__get__(strategy)
            strategy.configure_ddp = partial(self._wrap, wrap, pl_module)  # type: ignore[method-assign]

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        strategy = trainer.strategy
        if not isinstance(strategy, DDPStrategy) or not isinstance(strategy.model, DistributedDataParallel):
            return
        if _trainable(pl_module) != self._trainable:
            strategy.model = pl_module
            strategy.configure_ddp()

    def _wrap(self, wrap: Callable[[], None], module: nn.Module) -> None:
        self._trainable = _trainable(module)
        wrap()


def _trainable(module: nn.Module) -> list[str]:
    return [name for name, parameter in module.named_parameters() if parameter.requires_grad]
