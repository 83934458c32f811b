"""What studies of a tiny model have in common: their file, the model, and waiting for what a process does."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from transformers import BertConfig

SETTINGS = """
title: Tiny
settings:
  model.pretrained: false
  data.task_name: sst2
  data.source: synthetic
  data.tokenizer: offline:all-MiniLM-L6-v2
  data.max_length: 16
  data.max_train_samples: 32
  data.max_eval_samples: 32
  data.train_batch_size: 8
  trainer.accelerator: cpu"""


def write_study(folder: Path, text: str) -> None:
    """Write `tiny.yaml`: the settings, and what else a study has, in which HERE stands for the folder."""
    (folder / "tiny.yaml").write_text(SETTINGS + text.replace("HERE", str(folder)))


def save_model_config(folder: Path) -> None:
    """Save the configuration of a tiny BERT with the packaged tokenizer's vocabulary."""
    sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    BertConfig(vocab_size=30522, max_position_embeddings=32, **sizes).save_pretrained(folder)


def wait_until(condition: Callable[[], object], seconds: float = 250.0) -> None:
    """Wait until a condition holds.

    Raises:
        AssertionError: It did not within this time.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)
