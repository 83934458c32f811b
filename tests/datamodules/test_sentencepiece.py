"""Tokenizers that come as a file of SentencePiece alone, as DeBERTa-v3 does."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from lightning.pytorch import Trainer
from transformers import DebertaV2Config, DebertaV2ForSequenceClassification

from datamodules import TextDataModule
from datamodules.errors import DataError
from datamodules.tokens.tokenizer import load_tokenizer
from lightning_modules import ModelError, SequenceClassifier
from lightning_modules.trained_model.model_tokenizer import load_model_tokenizer

IS_INSTALLED = importlib.util.find_spec("sentencepiece") is not None


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    config = DebertaV2Config(
        vocab_size=128, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
    )
    DebertaV2ForSequenceClassification(config).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.skipif(IS_INSTALLED, reason="sentencepiece is installed")
def test_without_sentencepiece_the_error_names_the_extra(folder: Path) -> None:
    """transformers 5.23.0 says "`tiktoken` is required", which does not help: it cannot read such a file."""
    (folder / "spm.model").write_bytes(b"\n\x0e\n\x05[PAD]\x15\x00\x00\x00\x00\x18\x03")
    with pytest.raises(DataError, match=r"a file of SentencePiece .*pip install \"linetune\[sentencepiece\]\""):
        load_tokenizer(str(folder))
    with pytest.raises(ModelError, match=r"a file of SentencePiece .*pip install \"linetune\[sentencepiece\]\""):
        load_model_tokenizer(str(folder))


@pytest.mark.skipif(not IS_INSTALLED, reason="needs the extra sentencepiece")
def test_with_it_a_run_works(folder: Path, tmp_path: Path) -> None:
    import sentencepiece

    texts = [f"the quick brown fox jumps over number {number} again and again" for number in range(200)]
    (tmp_path / "texts.txt").write_text("\n".join(texts))
    special = {"pad_id": 0, "bos_id": 1, "eos_id": 2, "unk_id": 3}
    pieces = {"pad_piece": "[PAD]", "bos_piece": "[CLS]", "eos_piece": "[SEP]", "unk_piece": "[UNK]"}
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "texts.txt"),
        model_prefix=str(folder / "spm"),
        vocab_size=100,
        hard_vocab_limit=False,
        **special,
        **pieces,
    )
    (folder / "spm.vocab").unlink()
    (tmp_path / "train.csv").write_text(
        "\n".join(["text,label", *(f"{text},{row % 2}" for row, text in enumerate(texts))])
    )
    data = TextDataModule(str(tmp_path / "train.csv"), cache_dir=str(tmp_path / "cache"))
    trainer = Trainer(max_steps=2, accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.fit(SequenceClassifier(str(folder), num_labels=2), data)
    assert trainer.global_step == 2
