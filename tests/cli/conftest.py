"""The folder that commands run in, and a model that they train in seconds."""

from __future__ import annotations

import sys

import pytest

from tests.cli.command_line import ROOT
from tests.tiny_models import save_tiny_bert


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    # LightningCLI warns of arguments given twice where pytest's own stand beside those of a test.
    monkeypatch.setattr(sys, "argv", ["cli.py"])


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny BERT with the vocabulary of the packaged tokenizer."""
    folder = tmp_path_factory.mktemp("tiny")
    return str(save_tiny_bert(folder, vocab_size=30522, max_position_embeddings=128))
