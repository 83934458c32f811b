"""Batches that a classifier cannot read are one line that names the row, before they reach a device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from lightning_modules import ModelError, SequenceClassifier
from lightning_modules.batches.batch_check import check_batch, embedded_tokens
from optimizers import GLD, SaLSA
from tests.quiet_trainer import quiet_trainer
from tests.tiny_models import VOCABULARY, rows


def spoiled(kind: str) -> list[dict[str, Any]]:
    examples = rows(16)
    if kind.startswith("label"):
        examples[11]["labels"] = torch.tensor({"label 2": 2, "label -1": -1}[kind])
    elif kind == "token":
        examples[11]["input_ids"][3] = VOCABULARY
    elif kind == "masked token":
        examples[11]["input_ids"][3], examples[11]["attention_mask"][3] = VOCABULARY, 0
    return examples


EXPECTED = {
    "label 2": r"labels: the row with idx 11 has label 2; allowed: 0 to 1 \(num_labels 2\)",
    "label -1": "labels: the row with idx 11 has label -1",
    "token": f"input_ids: the row with idx 11 has token {VOCABULARY}, .* tokens 0 to {VOCABULARY - 1}",
}


@pytest.mark.parametrize("kind", EXPECTED)
@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, SaLSA, GLD])
def test_a_number_out_of_range_is_one_line_with_the_row(kind: str, optimizer: Any, tiny: str, tmp_path: Path) -> None:
    trainer = quiet_trainer(max_epochs=1)
    with pytest.raises(ModelError, match=EXPECTED[kind]):
        trainer.fit(SequenceClassifier(tiny, optimizer=optimizer), DataLoader(spoiled(kind), batch_size=4))
    with pytest.raises(ModelError, match=EXPECTED[kind]):
        trainer.validate(SequenceClassifier(tiny), DataLoader(spoiled(kind), batch_size=4), verbose=False)


def test_what_is_not_read_is_not_checked(tiny: str) -> None:
    trainer = quiet_trainer()
    module = SequenceClassifier(tiny)
    assert len(trainer.predict(module, DataLoader(spoiled("label -1"), batch_size=4))) == 4
    trainer.validate(module, DataLoader(spoiled("masked token"), batch_size=4), verbose=False)


def test_batches_without_rows_and_labels_of_another_kind() -> None:
    empty = {"input_ids": torch.zeros(0, 6, dtype=torch.long), "labels": torch.zeros(0, dtype=torch.long)}
    with pytest.raises(ModelError, match=r"a batch of no rows: input_ids has the shape \(0, 6\)"):
        check_batch(empty, 10, 2, "single_label_classification")
    tokens = torch.zeros(3, 6, dtype=torch.long)
    for labels, problem_type, line in (
        (torch.zeros(3, 2), "single_label_classification", "one class number per row"),
        (torch.ones(3) > 0, "single_label_classification", "a torch.bool tensor .* one class number .* of type int64"),
        (torch.zeros(3, dtype=torch.long), "multi_label_classification", "a column per label is needed, 2 of them"),
        (
            torch.tensor([[0.0, 1.0], [1.0, 0.5], [0, 0]]),
            "multi_label_classification",
            "row 1 of the batch has label 0.5",
        ),
        (torch.zeros(3, 1), "regression", r"a tensor of shape \(3, 1\); one score per row is needed"),
    ):
        with pytest.raises(ModelError, match=line):
            check_batch({"input_ids": tokens, "labels": labels}, 10, 2, problem_type)
    check_batch({"input_ids": tokens, "labels": torch.randn(3)}, 10, 1, "regression")
    check_batch([tokens], 10, 2, "single_label_classification")


def test_batches_that_are_no_dicts_are_one_line(tiny: str) -> None:
    examples = [(row["input_ids"], row["labels"]) for row in rows(4)]
    trainer = quiet_trainer(max_epochs=1)
    for run in (trainer.fit, trainer.validate, trainer.predict):
        with pytest.raises(ModelError, match=r"^the batches are of type list; a sequence classifier takes dicts"):
            run(SequenceClassifier(tiny), DataLoader(examples, batch_size=4))


class WithoutLabels(SequenceClassifier):
    """Has a loss of its own, of texts alone."""

    def compute_loss(self, batch: Any) -> torch.Tensor:
        return self._outputs(batch).square().mean()

    def mean_over(self, batch: Any) -> int:
        return len(batch["input_ids"])


def test_a_loss_of_ones_own_needs_no_labels(tiny: str) -> None:
    examples = [{name: value for name, value in row.items() if name != "labels"} for row in rows(8)]
    trainer = quiet_trainer(max_epochs=1)
    trainer.fit(WithoutLabels(tiny), DataLoader(examples, batch_size=4))
    assert trainer.global_step == 2


def test_a_model_that_hashes_its_tokens_has_no_vocabulary() -> None:
    from transformers import CanineConfig, CanineForSequenceClassification

    config = CanineConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, max_position_embeddings=64
    )
    assert embedded_tokens(CanineForSequenceClassification(config)) is None
