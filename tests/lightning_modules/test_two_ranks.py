"""Two processes (gloo, CPU): the same losses, the same decisions, bit-identical weights."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.strategies import DDPStrategy
from torch.optim import SGD
from torch.utils.data import DataLoader, DistributedSampler

from lightning_modules import LossOptions, SequenceClassifier, StepClosures
from optimizers import SGDSLS
from tests.quiet_trainer import quiet_trainer
from tests.tiny_models import TinyData, save_tiny_bert

pytestmark = pytest.mark.distributed


class Recorded(SequenceClassifier):
    """Writes each rank's weights and losses into a folder."""

    folder: Path

    def on_train_start(self) -> None:
        self.losses: list[float] = []

    def on_train_batch_end(self, *args: Any) -> None:
        if "train/loss" in self.trainer.callback_metrics:
            self.losses.append(float(self.trainer.callback_metrics["train/loss"]))

    def on_train_end(self) -> None:
        state = {"weights": [p.detach() for p in self.model.parameters()], "losses": self.losses}
        torch.save(state, self.folder / f"rank{self.global_rank}.pt")


class InOrder(TinyData):
    """Deals the examples to the ranks in turn; the sampler that Lightning would put in shuffles them."""

    def train_dataloader(self) -> DataLoader:
        ranks = torch.distributed.is_initialized()
        sampler = DistributedSampler(self.examples, shuffle=False) if ranks else None
        return DataLoader(self.examples, batch_size=self.batch_size, sampler=sampler)


def fit(
    module: LightningModule, folder: Path, ranks: int, batch_size: int, data: type[InOrder] = InOrder
) -> list[dict[str, Any]]:
    """Trains on the same 32 examples in the same order whatever the number of ranks; returns what each rank wrote."""
    module.folder = folder
    trainer = quiet_trainer(
        devices=ranks,
        strategy=DDPStrategy(start_method="fork", process_group_backend="gloo") if ranks > 1 else "auto",
        use_distributed_sampler=False,
        max_epochs=1,
        limit_val_batches=0,
        default_root_dir=folder,
    )
    trainer.fit(module, data(32, batch_size))
    return [torch.load(folder / f"rank{rank}.pt") for rank in range(ranks)]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_two_ranks_take_the_step_of_one(tmp_path: Path, accumulate: int) -> None:
    tiny = str(save_tiny_bert(tmp_path / "m", dropout=0.0))
    settings = {"optimizer": partial(SGD, lr=0.5), "accumulate_grad_batches": accumulate}
    (alone,) = fit(Recorded(tiny, **settings), tmp_path, ranks=1, batch_size=8)
    first, second = fit(Recorded(tiny, **settings), tmp_path, ranks=2, batch_size=4)

    assert first["losses"] == second["losses"]
    assert first["losses"] == pytest.approx(alone["losses"], rel=1e-5)
    for of_first, of_second, of_one in zip(first["weights"], second["weights"], alone["weights"], strict=True):
        assert torch.equal(of_first, of_second)
        torch.testing.assert_close(of_first, of_one, atol=1e-6, rtol=1e-4)


class UnlikeWeights(InOrder):
    """Examples in which one rank gets three times as many of the heavy class as the other."""

    def __init__(self, count: int, batch_size: int) -> None:
        super().__init__(count, batch_size)
        for place, row in enumerate(self.examples):
            row["labels"] = torch.tensor(int(place % 2 == 0 or place % 8 == 1))


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("optimizer", [partial(SGD, lr=0.5), partial(SGDSLS, steps_per_epoch=4)])
def test_the_weighted_mean_is_over_the_texts_of_all_ranks(optimizer: Any, accumulate: int, tmp_path: Path) -> None:
    tiny = str(save_tiny_bert(tmp_path / "m", dropout=0.0))
    loss = LossOptions({"LABEL_1": 9.0}, label_smoothing=0.1)
    settings = {"optimizer": optimizer, "accumulate_grad_batches": accumulate, "loss": loss}
    (alone,) = fit(Recorded(tiny, **settings), tmp_path, ranks=1, batch_size=8, data=UnlikeWeights)
    first, second = fit(Recorded(tiny, **settings), tmp_path, ranks=2, batch_size=4, data=UnlikeWeights)

    assert first["losses"] == second["losses"]
    assert first["losses"] == pytest.approx(alone["losses"], rel=1e-5)
    for of_first, of_second, of_one in zip(first["weights"], second["weights"], alone["weights"], strict=True):
        assert torch.equal(of_first, of_second)
        torch.testing.assert_close(of_first, of_one, atol=1e-5, rtol=1e-3)


def test_ranks_with_equally_many_examples_have_plain_shares() -> None:
    for ranks in (2, 3, 7):
        for counts in ([8], [8, 8, 5], [3, 2, 2]):
            batches = [torch.zeros(count, 1) for count in counts]
            arguments = {"zero_grad": lambda: None, "backward": lambda loss: None}
            alone = StepClosures(lambda batch: batch.sum(), batches, **arguments)
            among = StepClosures(
                lambda batch: batch.sum(), batches, sum_over_ranks=lambda t, n=ranks: t * n, **arguments
            )
            shares = torch.tensor([part.weight for part in alone._parts]).tolist()
            assert [float(part.weight) for part in among._parts] == shares
