"""Parts of similar length: the same rows, the same loss, the same training as the whole batch."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch import LightningDataModule
from torch.optim import SGD
from torch.utils.data import DataLoader

from lightning_modules import ModelError, SequenceClassifier
from lightning_modules.batches.length_split import split_by_length
from optimizers import SGDSLS
from tests.quiet_trainer import quiet_trainer
from tests.tiny_models import save_tiny_bert


def padded(lengths: list[int], left: bool = False) -> dict[str, torch.Tensor]:
    width = max(lengths) + 2
    ids = torch.zeros(len(lengths), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, length in enumerate(lengths):
        used = slice(width - length, None) if left else slice(length)
        ids[row, used] = torch.arange(row + 1, row + 1 + length) % 64
        mask[row, used] = 1
    labels = torch.arange(len(lengths)) % 2
    return {"input_ids": ids, "attention_mask": mask, "labels": labels, "idx": torch.arange(len(lengths))}


@given(
    st.lists(st.integers(1, 12), min_size=1, max_size=20),
    st.integers(2, 8),
    st.booleans(),
)
def test_parts_hold_every_row_once_and_no_column_of_padding(lengths: list[int], parts: int, left: bool) -> None:
    batch = padded(lengths, left)
    split = split_by_length(batch, parts)
    assert len(split) == min(parts, len(lengths))
    assert sorted(torch.cat([part["idx"] for part in split]).tolist()) == list(range(len(lengths)))
    widths = [part["input_ids"].shape[1] for part in split]
    assert widths == sorted(widths, reverse=True)
    sizes = [len(part["idx"]) for part in split]
    assert max(sizes) - min(sizes) <= 1
    for part in split:
        assert part["attention_mask"].shape == part["input_ids"].shape
        assert part["attention_mask"].any(dim=0).all()
        for index, ids, mask, label in zip(
            part["idx"], part["input_ids"], part["attention_mask"], part["labels"], strict=True
        ):
            before = batch["attention_mask"][index].bool()
            assert ids[mask.bool()].tolist() == batch["input_ids"][index][before].tolist()
            assert label == batch["labels"][index]


def test_one_part_is_the_batch_itself() -> None:
    batch = {"labels": torch.zeros(3)}
    assert split_by_length(batch, 1)[0] is batch


def test_without_a_mask_nobody_knows_the_lengths() -> None:
    with pytest.raises(ModelError, match="attention_mask"):
        split_by_length({"input_ids": torch.zeros(2, 3)}, 2)


def test_no_parts_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="split_by_length: 0"):
        SequenceClassifier(str(save_tiny_bert(tmp_path)), split_by_length=0)


class UnevenData(LightningDataModule):
    """Batches of 7 and a last one of 3 rows whose lengths differ."""

    def train_dataloader(self) -> DataLoader:
        lengths = [3, 9, 1, 4, 12, 2, 7, 5, 5, 1, 8, 2, 11, 6, 4, 9, 3]
        batches = [padded(lengths[start : start + 7]) for start in range(0, len(lengths), 7)]
        return DataLoader(batches, batch_size=None)

    val_dataloader = train_dataloader


@pytest.mark.parametrize("optimizer", [partial(SGD, lr=0.5), SGDSLS], ids=["SGD", "SGDSLS"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_training_in_parts_goes_where_whole_batches_go(tmp_path: Path, optimizer, accumulate: int) -> None:
    model = str(save_tiny_bert(tmp_path / "model"))
    ends, scores = [], []
    for parts in (1, 3):
        torch.manual_seed(0)
        module = SequenceClassifier(
            model, optimizer=optimizer, dropout=0.0, split_by_length=parts, accumulate_grad_batches=accumulate
        )
        trainer = quiet_trainer(max_epochs=2, default_root_dir=tmp_path, precision="64-true")
        trainer.fit(module, UnevenData())
        assert trainer.global_step == 2 * -(-3 // accumulate)
        scores.append({name: float(value) for name, value in trainer.callback_metrics.items() if "val" in name})
        ends.append(torch.cat([p.detach().flatten() for p in module.parameters()]))
    torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=2e-6)
    assert scores[0] == pytest.approx(scores[1], abs=1e-5)


def test_an_evaluation_returns_the_rows_in_the_order_of_the_batch(tmp_path: Path) -> None:
    """Callbacks read them beside the batch, as by its row numbers."""
    batch = padded([3, 9, 1, 4, 12, 2, 7])
    module = SequenceClassifier(str(save_tiny_bert(tmp_path)), split_by_length=3).eval()
    module.log = lambda *_, **__: None  # type: ignore[method-assign]
    returned = module.validation_step(batch, 0)
    assert torch.equal(returned["labels"], batch["labels"])
    torch.testing.assert_close(returned["outputs"], module(batch))
    assert torch.equal(returned["predicted"], module(batch).argmax(1))
