"""A linear regression of known curvature, to train under MeasuredLearningRate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.optim import SGD
from torch.optim import lr_scheduler as schedules
from torch.utils.data import DataLoader, TensorDataset

from callbacks import MeasuredLearningRate
from lightning_modules import ClosureModule
from tests.quiet_trainer import quiet_trainer

INPUTS, ROWS = 6, 96


def table(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Rows of a regression in float64, half of whose variance is noise."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(ROWS, INPUTS, generator=generator, dtype=torch.float64)
    weights = torch.randn(INPUTS, generator=generator, dtype=torch.float64)
    return x, x @ weights + weights.norm() * torch.randn(ROWS, generator=generator, dtype=torch.float64)


class Regression(LightningModule):
    """A quadratic of known curvature: linear regression, with whatever `configure_optimizers` is given."""

    def __init__(self, configure: Callable[[nn.Module], Any], factor: float = 1.0) -> None:
        super().__init__()
        self.configure, self.factor = configure, factor
        self.weight = nn.Parameter(torch.linspace(-1, 1, INPUTS, dtype=torch.float64))
        self.rates: list[list[float]] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        return self.factor * (((x * self.weight).sum(1) - y) ** 2).mean()

    def configure_optimizers(self) -> Any:
        return self.configure(self)

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        self.rates.append([float(group["lr"]) for group in optimizer.param_groups])


class Single(Regression):
    """The regression in float32, as a matrix product, which autocast computes in half precision."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__(with_rate(SGD, lr=1.0), factor)
        self.float()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = (each.float() for each in batch)
        return self.factor * ((x @ self.weight - y) ** 2).mean()


class Manual(ClosureModule):
    """The same regression with the steps of this project."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.weight = nn.Parameter(torch.linspace(-1, 1, INPUTS))

    def compute_loss(self, batch: Any) -> Tensor:
        x, y = (each.float() for each in batch)
        # Not a matrix product: MKL's last bit depends on where in memory its operands lie.
        return (((x * self.weight).sum(1) - y) ** 2).mean()


def fit(module: LightningModule, *callbacks: Callback, batch: int = 8, resume: Any = None, **options: Any) -> Trainer:
    saves = any(isinstance(each, ModelCheckpoint) for each in callbacks)
    settings = {"callbacks": list(callbacks), "enable_checkpointing": saves, "max_epochs": 2}
    trainer = quiet_trainer(**settings | options)
    trainer.fit(module, DataLoader(TensorDataset(*table()), batch_size=batch), ckpt_path=resume)
    return trainer


def with_rate(factory: Any, **options: Any) -> Callable[[nn.Module], Any]:
    return lambda module: factory(module.parameters(), **options)


def measured(configure: Any, *, factor: float = 1.0, **options: Any) -> tuple[float, Regression]:
    """Fit, and return the peak with the module."""
    callback, module = MeasuredLearningRate(), Regression(configure, factor)
    fit(module, callback, **options)
    assert callback.peak is not None
    return callback.peak, module


class Rates(Callback):
    """Notes the rate of each step."""

    def __init__(self) -> None:
        self.rates: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if len(self.rates) < trainer.global_step:
            self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])


def sequential(optimizer: Any) -> Any:
    parts = [
        schedules.LinearLR(optimizer, 0.1, total_iters=10),
        schedules.CosineAnnealingLR(optimizer, 50, eta_min=0.1),
    ]
    return schedules.SequentialLR(optimizer, parts, [10])
