"""Batches are padded on the side where padding is free, whatever their tokenizer does."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader
from transformers import AutoModelForSequenceClassification

from lightning_modules import ModelError, SequenceClassifier
from lightning_modules.batches.length_split import split_by_length
from lightning_modules.batches.padding import Padding, padded_on
from tests.families import PAD, family_batch, family_model
from tests.family_support import tokenizer
from tests.quiet_trainer import quiet_trainer


def left_padded(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    rows = [row[mask == 1] for row, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)]
    width = batch["input_ids"].shape[1]
    ids = torch.stack([torch.nn.functional.pad(row, (width - len(row), 0), value=PAD) for row in rows])
    return {"input_ids": ids, "attention_mask": (ids != PAD).long()}


@given(
    lengths=st.lists(st.integers(0, 6), min_size=1, max_size=5),
    starts=st.lists(st.integers(0, 3), min_size=5, max_size=5),
)
def test_moving_padding_keeps_rows_and_their_order(lengths: list[int], starts: list[int]) -> None:
    places = torch.arange(9)
    first, length = torch.tensor(starts[: len(lengths)])[:, None], torch.tensor(lengths)[:, None]
    mask = ((places >= first) & (places < first + length)).long()
    ids = torch.arange(mask.numel()).reshape(mask.shape) + 1
    boxes = ids[..., None].expand(-1, -1, 4)
    labels = torch.arange(mask.numel()).reshape(mask.shape)  # as many labels per text as tokens
    batch = {"input_ids": ids * mask, "attention_mask": mask, "bbox": boxes, "labels": labels}
    for side in ("left", "right"):
        moved = padded_on(batch, side)
        for row, (count, kept) in enumerate(zip(lengths, mask.bool(), strict=True)):
            place = slice(9 - count, 9) if side == "left" else slice(0, count)
            assert torch.equal(moved["input_ids"][row, place], ids[row, kept])
            assert torch.equal(moved["bbox"][row, place, 2], ids[row, kept])
            assert moved["attention_mask"][row].sum() == moved["attention_mask"][row, place].sum() == count
        assert torch.equal(moved["labels"], labels)
        assert torch.equal(padded_on(moved, side)["input_ids"], moved["input_ids"])


def test_labels_as_wide_as_the_tokens_are_not_cut() -> None:
    batch = {"attention_mask": torch.tensor([[1, 0], [1, 1]]), "labels": torch.tensor([[0.0, 1.0], [1.0, 1.0]])}
    assert [part["labels"].tolist() for part in split_by_length(batch, 2)] == [[[1.0, 1.0]], [[0.0, 1.0]]]


class Rows(LightningDataModule):
    """Batches as a tokenizer that pads on a side makes them."""

    def __init__(self, batch: dict[str, torch.Tensor], side: str | None, **settings: int) -> None:
        super().__init__()
        self.batch = batch | {"labels": torch.arange(4) % 3, "idx": torch.arange(4)}
        if side is not None:
            self.tokenizer = tokenizer()
            self.tokenizer.padding_side = side
        for name, value in settings.items():
            setattr(self, name, value)

    def val_dataloader(self) -> DataLoader:
        return DataLoader([self.batch], batch_size=None)


def validation_loss(module: SequenceClassifier, data: Rows) -> float:
    trainer = quiet_trainer()
    return trainer.validate(module, data, verbose=False)[0]["val/loss"]


@pytest.mark.parametrize("family", ["bert", "bart", "gpt2", "gpt_neo", "biogpt", "openai-gpt", "ctrl", "xlnet"])
def test_the_loss_is_that_of_every_text_alone_on_either_side(family: str, tmp_path: Path) -> None:
    """GPT-2's kin counts positions from the first column in transformers 5.23.0, whatever the mask says."""
    family_model(family).save_pretrained(tmp_path)
    module = SequenceClassifier(str(tmp_path), num_labels=3)
    batch = family_batch()
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    with torch.no_grad():
        alone = [
            plain(input_ids=ids[mask == 1][None], attention_mask=mask[mask == 1][None]).logits
            for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
        ]
    expected = torch.nn.functional.cross_entropy(torch.cat(alone), torch.arange(4) % 3).item()
    for side, rows in (("right", batch), ("left", left_padded(batch))):
        for known in (side, None):  # without a tokenizer, the side is not known
            assert validation_loss(module, Rows(rows, known)) == pytest.approx(expected, rel=1e-6), (side, known)


def test_a_family_whose_logits_depend_on_padding_is_refused_or_warned_of(tmp_path: Path) -> None:
    family_model("fnet").save_pretrained(tmp_path)
    for option in ({"split_by_length": 2}, {"cache_features": True, "trainable": "head"}):
        (name, *_) = option
        with pytest.raises(ModelError, match=rf"^{name}: the logits of a FNet\w+ depend on how far a text is padded"):
            SequenceClassifier(str(tmp_path), num_labels=3, **option)
    module = SequenceClassifier(str(tmp_path), num_labels=3)
    with pytest.warns(UserWarning, match=r"data\.pad_to_multiple_of: 8 pads all texts alike"):
        validation_loss(module, Rows(family_batch(), "right", max_length=8))


def test_nothing_is_said_where_all_texts_are_padded_alike(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    family_model("fnet").save_pretrained(tmp_path)
    data = Rows(family_batch(), "right", max_length=8, pad_to_multiple_of=8)
    validation_loss(SequenceClassifier(str(tmp_path), num_labels=3), data)
    assert not [warning for warning in recwarn if "padded" in str(warning.message)]


def test_looking_changes_neither_random_numbers_nor_modes() -> None:
    model = family_model("bert")
    model.bert.embeddings.eval()
    modes = [module.training for module in model.modules()]
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    assert Padding(model).side_for("left") == "right"
    assert torch.equal(torch.rand(1), expected)
    assert [module.training for module in model.modules()] == modes


def test_a_model_that_does_not_run_on_a_text_alone_is_left_as_it_is() -> None:
    def forward(batch: dict[str, torch.Tensor]) -> torch.Tensor:
        raise ValueError("pixel_values are missing")

    padding = Padding(family_model("bert"), forward)
    assert not padding.matters
    assert padding.side_for("left") == "left"
    assert padding.side_for_data(SimpleNamespace()) is None


def test_an_exported_tokenizer_pads_where_padding_is_free(tmp_path: Path) -> None:
    family_model("bert").save_pretrained(tmp_path / "model")
    own = tokenizer()
    own.padding_side = "left"
    folder = SequenceClassifier(str(tmp_path / "model"), num_labels=3).export(tmp_path / "exported", own)
    assert type(own).from_pretrained(folder).padding_side == "right"
