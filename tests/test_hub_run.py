"""The command line with model, tokenizer and data all from a hub (on loopback), as `--model.model org/name` reads."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import datasets
import pytest
from transformers import BertTokenizer

from lightning_modules.models.pretrained import load_sequence_classifier
from tests.hub_server import HubServer, client_environment, write_glue_repository, write_model_repository
from tests.tiny_models import save_tiny_bert

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.network


def rte_rows(count: int) -> datasets.Dataset:
    labels = datasets.ClassLabel(names=["entailment", "not_entailment"])
    columns = {
        "sentence1": ["a b c"] * count,
        "sentence2": ["a b" if row % 2 else "c d" for row in range(count)],
        "label": [row % 2 for row in range(count)],
        "idx": list(range(count)),
    }
    text = datasets.Value("string")
    features = {"sentence1": text, "sentence2": text, "label": labels, "idx": datasets.Value("int32")}
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


def test_fit_from_the_hub(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefgh"]))
    weights = save_tiny_bert(tmp_path / "weights", max_position_embeddings=128)
    model, _ = load_sequence_classifier(str(weights), num_labels=2)
    repositories = {
        "datasets/nyu-mll/glue": write_glue_repository(
            tmp_path / "glue", {"rte": {"train": rte_rows(16), "validation": rte_rows(8), "test": rte_rows(8)}}
        ),
        "models/org/tiny": write_model_repository(tmp_path / "model", model, BertTokenizer.from_pretrained(tmp_path)),
    }
    arguments = ["--model.model", "org/tiny", "--data.task_name", "rte"]
    arguments += ["--trainer.max_epochs", "1", "--trainer.accelerator", "cpu", "--trainer.default_root_dir", "out"]
    with HubServer(repositories) as hub:
        done = subprocess.run(
            [sys.executable, str(ROOT / "cli.py"), "fit", *arguments],
            env=client_environment(hub.url, tmp_path / "home") | {"OMP_NUM_THREADS": "1"},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=240,
        )
        asked = list(hub.requests)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "val/accuracy" in done.stdout
    assert any("org/tiny" in request and "model.safetensors" in request for request in asked)
    assert not any("pytorch_model.bin" in request for request in asked)
