"""An evaluation on 1, 2 and 4 ranks counts every example once: equal losses and metrics."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DDPStrategy
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler

from datamodules import TextDataModule
from lightning_modules import ClosureModule, SequenceClassifier
from tests.quiet_trainer import quiet_trainer
from tests.tiny_models import rows, save_tiny_bert

pytestmark = pytest.mark.distributed

# On 2 and on 4 ranks, the first rank has one example more than the others, and in batches of 25 one batch more.
EXAMPLES, BATCH_SIZE = 301, 25


def trainer_on(ranks: int, **options: Any) -> Trainer:
    strategy = DDPStrategy(start_method="fork", process_group_backend="gloo") if ranks > 1 else "auto"
    return quiet_trainer(devices=ranks, strategy=strategy, **options)


def loader(num_labels: int, **options: Any) -> DataLoader:
    return DataLoader(rows(EXAMPLES, num_labels=num_labels, seed=3), batch_size=BATCH_SIZE, **options)


@pytest.mark.parametrize("num_labels", [1, 2])
def test_metrics_of_any_number_of_ranks_are_equal(num_labels: int, tmp_path: Path) -> None:
    regression = num_labels == 1
    names = ["pearson", "spearman", "mae"] if regression else ["accuracy", "macro_f1", "matthews", "auroc"]
    module = SequenceClassifier(
        str(save_tiny_bert(tmp_path / "m", num_labels)), num_labels, metrics=names, split_by_length=2
    )
    results = [trainer_on(n).validate(module, loader(num_labels), verbose=False)[0] for n in (1, 2, 4)]

    assert set(results[0]) == {"val/loss", *(f"val/{name}" for name in names)}
    for result in results[1:]:
        assert result == pytest.approx(results[0], abs=1e-6)


def test_rows_of_a_data_module_in_an_order_of_its_own(tmp_path: Path) -> None:
    lines = [
        "text,label",
        *(f"{'good ' * (i % 7)}film number {i},{('no', 'yes')[i % 3 == 0]}" for i in range(EXAMPLES)),
    ]
    (tmp_path / "rows.csv").write_text("\n".join(lines))
    tiny = str(save_tiny_bert(tmp_path / "m", vocab_size=30_522))

    def validated(ranks: int) -> Any:
        file = str(tmp_path / "rows.csv")
        columns = {"text_columns": "text", "label_column": "label"}
        data = TextDataModule(
            file,
            file,
            **columns,
            tokenizer="offline:all-MiniLM-L6-v2",
            eval_batch_size=BATCH_SIZE,
            max_length=32,
            cache_dir=str(tmp_path),
        )
        return trainer_on(ranks).validate(SequenceClassifier(tiny), data, verbose=False)[0]

    alone, among = validated(1), validated(2)
    assert among == pytest.approx(alone, abs=1e-6)


class WithRunningStatistics(ClosureModule):
    """A user's own module, whose buffers DDP broadcasts before each forward pass."""

    def __init__(self) -> None:
        super().__init__(optimizer=partial(torch.optim.SGD, lr=0.1))
        self.layers = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))

    def compute_loss(self, batch: Any) -> torch.Tensor:
        return nn.functional.cross_entropy(self.layers(batch[0]), batch[1])


def examples(count: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(4, generator=generator), torch.tensor(index % 2)) for index in range(count)]


class Measured(WithRunningStatistics):
    """Validates in the middle of a fit, on loaders with a distributed sampler of the user's own."""

    folder: Path

    def train_dataloader(self) -> DataLoader:
        return DataLoader(examples(64), batch_size=32 // self.trainer.world_size)

    def val_dataloader(self) -> DataLoader:
        found = examples(EXAMPLES)
        sampler = DistributedSampler(found) if self.trainer.world_size > 1 else None
        return DataLoader(found, batch_size=BATCH_SIZE, sampler=sampler)

    def on_train_end(self) -> None:
        buffers = {name: buffer.clone() for name, buffer in self.named_buffers()}
        torch.save((dict(self.trainer.callback_metrics), buffers), self.folder / f"{self.global_rank}.pt")


def test_a_module_with_buffers_in_the_middle_of_a_fit(tmp_path: Path) -> None:
    module = Measured()
    module.folder = tmp_path
    trainer_on(2, max_epochs=2).fit(module)
    (logged, buffers), (others, other_buffers) = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert logged["val/loss"] == others["val/loss"]
    # Rank 0's running statistics are everyone's from the validation on; a broadcast per batch would have hung.
    for name in buffers:
        assert torch.equal(buffers[name], other_buffers[name])

    # The loss is that of the weights and statistics which the ranks ended with, and which the fit has handed back.
    (alone,) = trainer_on(1).validate(module, verbose=False)
    assert alone["val/loss"] == pytest.approx(float(logged["val/loss"]), abs=1e-6)
