"""A linear regression as a ClosureModule, for tests that need a fit and no model of Hugging Face."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_modules import (
    ClosureModule,
)
from tests.quiet_trainer import quiet_trainer


class Regression(ClosureModule):
    """Least squares on tuples of tensors."""

    def __init__(self, **training: Any) -> None:
        super().__init__(**training)
        torch.manual_seed(0)
        self.layer = nn.Linear(3, 1)

    def compute_loss(self, batch: Any) -> Tensor:
        inputs, targets = batch
        return nn.functional.mse_loss(self.layer(inputs).squeeze(-1), targets)


def data(batch_size: int, weighted: bool = False, count: int = 24) -> DataLoader:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(count, 3, generator=generator)
    tensors = [inputs, inputs.sum(1)] + ([torch.rand(count, generator=generator)] if weighted else [])
    return DataLoader(TensorDataset(*tensors), batch_size=batch_size)


def fit(module: LightningModule, loader: Any, folder: Path, **options: Any) -> Trainer:
    trainer = quiet_trainer(default_root_dir=folder, **({"max_epochs": 2} | options))
    trainer.fit(module, loader, data(7))
    return trainer
