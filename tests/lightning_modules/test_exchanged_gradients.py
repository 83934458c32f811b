"""Parameters that a callback unfreezes during a fit train alike on one rank and on two."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import BaseFinetuning
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, TensorDataset

from callbacks import GradualUnfreezing
from lightning_modules import ClosureModule
from tests.quiet_trainer import quiet_trainer

pytestmark = pytest.mark.distributed

ROWS = 16


class Layers(ClosureModule):
    def __init__(self, folder: Path) -> None:
        super().__init__(optimizer=partial(torch.optim.SGD, lr=0.1))
        torch.manual_seed(0)
        self.body = nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8)])
        self.head = nn.Linear(8, 2)
        self.folder = folder

    def compute_loss(self, batch: Any) -> Tensor:
        inner = batch[0]
        for layer in self.body:
            inner = torch.tanh(layer(inner))
        return nn.functional.cross_entropy(self.head(inner), batch[1])

    def on_train_end(self) -> None:
        super().on_train_end()
        torch.save(self.state_dict(), self.folder / f"{self.global_rank}.pt")


class BodyLater(BaseFinetuning):
    def __init__(self, epoch: int) -> None:
        super().__init__()
        self.epoch = epoch

    def freeze_before_training(self, pl_module: LightningModule) -> None:
        self.freeze(pl_module.body)

    def finetune_function(self, pl_module: LightningModule, epoch: int, optimizer: Optimizer) -> None:
        if epoch == self.epoch:
            self.unfreeze_and_add_param_group(pl_module.body, optimizer, lr=0.1)


class BodyBetweenSteps(Callback):
    """Trains the head for two steps and then the body, of which DDP would wait for both."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pl_module.body.requires_grad_(False)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *batch: Any) -> None:
        if trainer.global_step == 2:
            pl_module.body.requires_grad_(True)
            pl_module.head.requires_grad_(False)
            pl_module.head.zero_grad()


def fit(folder: Path, ranks: int, callback: Callback) -> list[dict[str, Tensor]]:
    """Return the weights of each rank after a fit whose batches hold the same rows in all."""
    strategy = DDPStrategy(start_method="fork", process_group_backend="gloo") if ranks > 1 else "auto"
    inputs = torch.randn(ROWS, 8, generator=torch.Generator().manual_seed(1))
    loader = DataLoader(TensorDataset(inputs, (inputs[:, 0] > 0).long()), batch_size=ROWS // ranks)
    trainer = quiet_trainer(devices=ranks, strategy=strategy, max_epochs=5, callbacks=[callback])
    trainer.fit(Layers(folder), loader)
    return [torch.load(folder / f"{rank}.pt") for rank in range(ranks)]


@pytest.mark.parametrize(
    "make",
    [partial(BodyLater, 0), partial(BodyLater, 2), BodyBetweenSteps, GradualUnfreezing],
    ids=["in the first epoch", "in the third epoch", "between steps", "gradually"],
)
def test_two_ranks_train_what_one_trains(make: Callable[[], Callback], tmp_path: Path) -> None:
    start = Layers(tmp_path).state_dict()
    alone = fit(tmp_path, 1, make())[0]
    together = fit(tmp_path, 2, make())
    for name, weight in alone.items():
        assert not torch.equal(weight, start[name]), name
        assert torch.equal(together[0][name], together[1][name]), name
        assert torch.allclose(together[0][name], weight, atol=1e-6), name
