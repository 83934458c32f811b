"""Models of a few thousand parameters and data for them, for tests that need a real Hugging Face model fast."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.loggers import Logger
from torch.utils.data import DataLoader
from transformers import BertConfig, BertForSequenceClassification

VOCABULARY = 64


def save_tiny_bert(
    folder: Path, num_labels: int = 2, hidden_size: int = 16, seed: int = 0, dropout: float = 0.1, **settings: Any
) -> Path:
    """Saves a two-layer BERT with random weights, head included, into ``folder``; returns the folder."""
    torch.manual_seed(seed)
    sizes = {
        "vocab_size": VOCABULARY,
        "hidden_size": hidden_size,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 2 * hidden_size,
        "max_position_embeddings": 32,
        "hidden_dropout_prob": dropout,
        "attention_probs_dropout_prob": dropout,
    }
    config = BertConfig(num_labels=num_labels, **(sizes | settings))
    BertForSequenceClassification(config).save_pretrained(folder)
    return folder


def rows(count: int, length: int = 6, num_labels: int = 2, seed: int = 0) -> list[dict[str, torch.Tensor]]:
    """Examples whose label is the range that their tokens come from; for one label, the mean token scaled to [0, 5]."""
    generator = torch.Generator().manual_seed(seed)
    examples = []
    for index in range(count):
        label = index % max(num_labels, 2)
        span = VOCABULARY // max(num_labels, 2)
        tokens = torch.randint(span * label, span * (label + 1), (length,), generator=generator)
        target = torch.tensor(label) if num_labels > 1 else tokens.float().mean() * 5 / VOCABULARY
        examples.append(
            {
                "input_ids": tokens,
                "attention_mask": torch.ones(length, dtype=torch.long),
                "labels": target,
                "idx": torch.tensor(index),
            }
        )
    return examples


class TinyData(LightningDataModule):
    """The examples of :func:`rows` as a data module; one loader for every stage."""

    def __init__(self, count: int = 32, batch_size: int = 8, num_labels: int = 2, eval_sets: int = 1) -> None:
        super().__init__()
        self.examples = rows(count, num_labels=num_labels)
        self.batch_size = batch_size
        self.eval_sets = eval_sets

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.examples, batch_size=self.batch_size)

    def val_dataloader(self) -> list[DataLoader]:
        return [DataLoader(self.examples, batch_size=self.batch_size) for _ in range(self.eval_sets)]

    test_dataloader = val_dataloader

    def predict_dataloader(self) -> DataLoader:
        return self.train_dataloader()


class TinyLogger(Logger):
    """Logs nothing; like most loggers it has no ``log_dir``, but a name and a version within ``save_dir``."""

    name = "tiny"
    save_dir = None
    version = None

    def __init__(self, save_dir: str | None = None, version: str | int | None = None) -> None:
        super().__init__()
        self.save_dir, self.version = save_dir, version

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        pass

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        pass
