"""Texts in several windows: one row of logits, one term of the loss, one prediction per text."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningDataModule, Trainer
from torch.optim import SGD
from torch.utils.data import DataLoader

from lightning_modules import ModelError, SequenceClassifier
from lightning_modules.batches.batch_rows import Batch, count_examples
from lightning_modules.batches.windows import mean_per_text
from optimizers import AdamSLS
from tests.quiet_trainer import quiet_trainer
from tests.tiny_models import rows, save_tiny_bert


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny_bert(tmp_path_factory.mktemp("tiny"), dropout=0.0))


def in_windows(text: list[int]) -> Batch:
    """A batch of windows of the texts numbered in ``text``, with labels per text."""
    texts = max(text) + 1
    windows = rows(len(text))
    return {
        "input_ids": torch.stack([row["input_ids"] for row in windows]),
        "attention_mask": torch.stack([row["attention_mask"] for row in windows]),
        "text": torch.tensor(text),
        "labels": torch.arange(texts) % 2,
        "idx": torch.arange(texts) + 10,
    }


class Windows(LightningDataModule):
    def train_dataloader(self) -> DataLoader:
        batches = [in_windows([0, 0, 0, 1, 2]), in_windows([1, 0, 1])]
        return DataLoader(batches, batch_size=None)  # type: ignore[arg-type]

    val_dataloader = test_dataloader = predict_dataloader = train_dataloader


def trainer(tmp_path: Path) -> Trainer:
    return quiet_trainer(max_epochs=2, default_root_dir=tmp_path)


def test_logits_are_averaged_per_text_in_any_order() -> None:
    logits = torch.tensor([[1.0, 0.0], [5.0, 2.0], [3.0, 4.0]])
    found = mean_per_text(logits, {"text": torch.tensor([1, 0, 1]), "labels": torch.tensor([0, 1])})
    assert found.tolist() == [[5.0, 2.0], [2.0, 2.0]]
    assert torch.equal(mean_per_text(logits, {"text": torch.tensor([1, 0, 1])}), found)


def test_examples_are_texts() -> None:
    batch = in_windows([0, 0, 1, 2, 2, 2])
    assert count_examples(batch) == 3
    del batch["labels"]
    assert count_examples(batch) == 3


def test_loss_and_forward_are_about_texts(tiny: str) -> None:
    module, batch = SequenceClassifier(tiny).eval(), in_windows([0, 0, 1, 1, 1])
    logits = module.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    averaged = torch.stack([logits[:2].mean(0), logits[2:].mean(0)])
    torch.testing.assert_close(module(batch), averaged)
    expected = torch.nn.functional.cross_entropy(averaged, batch["labels"])
    torch.testing.assert_close(module.compute_loss(batch), expected)
    assert module.mean_over(batch) == 2


@pytest.mark.parametrize("optimizer", [partial(SGD, lr=0.1), AdamSLS])
def test_a_whole_run_is_about_texts(optimizer: object, tiny: str, tmp_path: Path) -> None:
    module = SequenceClassifier(tiny, optimizer=optimizer, accumulate_grad_batches=2)  # type: ignore[arg-type]
    run = trainer(tmp_path)
    run.fit(module, Windows())
    assert run.global_step == 2
    # Of 3 and 2 texts: the mean over 5 of them.
    (result,) = run.validate(module, Windows(), verbose=False)
    batches = [in_windows([0, 0, 0, 1, 2]), in_windows([1, 0, 1])]
    module.eval()
    losses = [float(module.compute_loss(batch)) for batch in batches]
    assert result["val/loss"] == pytest.approx((3 * losses[0] + 2 * losses[1]) / 5, rel=1e-5)
    predictions = run.predict(module, Windows())
    assert predictions is not None
    assert [tuple(batch["probabilities"].shape) for batch in predictions] == [(3, 2), (2, 2)]
    assert [batch["idx"].tolist() for batch in predictions] == [[10, 11, 12], [10, 11]]


@pytest.mark.parametrize("option", [{"split_by_length": 2}, {"cache_features": True, "trainable": "head"}])
def test_what_works_on_single_rows_is_refused(option: dict, tiny: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=f"{next(iter(option))}: it does not go with long texts as windows"):
        trainer(tmp_path).fit(SequenceClassifier(tiny, **option), Windows())
