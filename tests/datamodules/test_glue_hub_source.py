"""The hub's own clients against a hub on loopback, each in a process of its own: they read HF_ENDPOINT on import."""

from __future__ import annotations

import json
import subprocess
import sys

import datasets
import pytest
from transformers import BertConfig, BertForSequenceClassification, BertTokenizer

from datamodules import TASKS, DataError
from datamodules.glue.glue_hub_source import HubSource
from tests.hub_server import HubServer, client_environment, write_glue_repository, write_model_repository

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefgh"]


def table(task, labels):
    task = TASKS[task]
    label = datasets.Value("float32") if task.is_regression else datasets.ClassLabel(names=list(task.label_names))
    features = {name: datasets.Value("string") for name in task.text_columns}
    columns = {name: [f"{'a' * (row + 1)} b {name[0]}" for row in range(len(labels))] for name in task.text_columns}
    # The hub's own row numbers have gaps (mrpc's do).
    columns |= {"label": labels, "idx": [3 * row for row in range(len(labels))]}
    return datasets.Dataset.from_dict(
        columns, features=datasets.Features({**features, "label": label, "idx": datasets.Value("int32")})
    )


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    glue = write_glue_repository(
        folder / "glue",
        {
            "mrpc": {
                "train": table("mrpc", [1, 0, 1]),
                "validation": table("mrpc", [0, 1]),
                "test": table("mrpc", [-1, -1]),
            },
            "stsb": {"train": table("stsb", [0.5, 5.0]), "validation": table("stsb", [2.25])},
            "mnli": {
                "train": table("mnli", [2, 0, 1]),
                "validation_matched": table("mnli", [0, 1, 2]),
                "validation_mismatched": table("mnli", [1]),
                "test_matched": table("mnli", [-1]),
                "test_mismatched": table("mnli", [-1, -1]),
            },
        },
    )
    (folder / "vocabulary").mkdir()
    (folder / "vocabulary" / "vocab.txt").write_text("\n".join(WORDS))
    tokenizer = BertTokenizer.from_pretrained(folder / "vocabulary")
    model = BertForSequenceClassification(
        BertConfig(
            vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
        )
    )
    repository = write_model_repository(folder / "tiny", model, tokenizer)
    with HubServer({"datasets/nyu-mll/glue": glue, "models/org/tiny": repository}) as server:
        yield server


def run(script, environment):
    result = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


READ_BATCHES = """
import json
from datamodules import GLUEDataModule
found = {}
for task in ("mrpc", "stsb", "mnli"):
    data = GLUEDataModule(task, tokenizer="org/tiny", max_length=16)
    data.setup("fit")
    loaders = data.val_dataloader()
    loaders = loaders if isinstance(loaders, list) else [loaders]
    found[task] = [{name: tensor.tolist() for name, tensor in batch.items()} for loader in loaders for batch in loader]
    found[task + " train"] = sorted(label for batch in data.train_dataloader() for label in batch["labels"].tolist())
data = GLUEDataModule("mrpc", tokenizer="org/tiny")
data.setup("predict")
found["predict"] = [sorted(batch) for batch in data.predict_dataloader()]
"""
MODEL = """
from transformers import AutoModelForSequenceClassification
model = AutoModelForSequenceClassification.from_pretrained("org/tiny", use_safetensors=True)
found["model"] = sum(parameter.numel() for parameter in model.parameters())
"""
SECOND_START = """
import transformers
def refuse(*arguments, **options):
    raise AssertionError("tokenized again")
transformers.PreTrainedTokenizerBase.__call__ = refuse
"""
FAILURES = """
from datamodules import DataError
from datamodules.tokens.tokenizer import load_tokenizer
found["errors"] = []
def rte():
    GLUEDataModule("rte", tokenizer="org/tiny").setup("fit")
for attempt in (rte, lambda: load_tokenizer("org/absent")):
    try:
        attempt()
    except DataError as error:
        found["errors"].append(str(error))
"""
PRINT = "\nprint(json.dumps(found))"


@pytest.mark.network
@pytest.mark.slow
def test_the_hub(hub, tmp_path):
    online = client_environment(hub.url, tmp_path / "hf")
    found = run(READ_BATCHES + MODEL + FAILURES + PRINT, online)
    # [CLS] a b s [SEP] a b s [SEP]: the first validation row; "s" of the column's name is not in the vocabulary.
    assert found["mrpc"][0]["input_ids"][0][:5] == [2, 5, 6, 1, 3]
    assert found["mrpc"][0]["labels"] == [0, 1]
    assert found["mrpc"][0]["idx"] == [0, 1]
    assert found["stsb"][0]["labels"] == [2.25]
    assert [batch["labels"] for batch in found["mnli"]] == [[0, 1, 2], [1]]
    assert found["mrpc train"] == [0, 1, 1]
    assert found["stsb train"] == [0.5, 5.0]
    assert found["predict"] == [["attention_mask", "idx", "input_ids", "token_type_ids"]]
    assert found["model"] > 1000
    data_error, tokenizer_error = found["errors"]
    assert data_error.startswith("cannot load rte of nyu-mll/glue from the hub (")
    assert "give data_dir, a folder with the official GLUE files, or source=synthetic" in data_error
    assert tokenizer_error.startswith("cannot load the tokenizer 'org/absent': ")
    assert "\n" not in data_error + tokenizer_error

    # Each file is fetched once, however many splits and loaders read it.
    downloads = [request for request in hub.requests if request.startswith("GET") and request.endswith(".parquet")]
    assert len(downloads) == len(set(downloads)) == 3 + 2 + 5
    assert not any(request.endswith(".bin") for request in hub.requests)

    # Without a connection, what was downloaded and tokenized before is all that is needed.
    asked = len(hub.requests)
    offline = online | {"HF_HUB_OFFLINE": "1"}
    again = run(SECOND_START + READ_BATCHES + FAILURES + PRINT, offline)
    assert {name: again[name] for name in ("mrpc", "stsb", "mnli")} == {
        name: found[name] for name in ("mrpc", "stsb", "mnli")
    }
    data_error, tokenizer_error = again["errors"]
    assert data_error.startswith("cannot load rte of nyu-mll/glue from the hub (")
    assert data_error.endswith("official GLUE files, or source=synthetic, generated sentences")
    assert "org/absent" in tokenizer_error
    assert len(hub.requests) == asked


def test_labels_in_another_order_are_refused(monkeypatch):
    rows = table("mrpc", [0, 1]).cast_column("label", datasets.ClassLabel(names=["equivalent", "not_equivalent"]))
    monkeypatch.setattr(datasets, "load_dataset", lambda *arguments: datasets.DatasetDict(train=rows))
    source = HubSource(TASKS["mrpc"])
    with pytest.raises(DataError, match=r"has the labels \['equivalent', 'not_equivalent'\] for mrpc, not \['not_"):
        source.read("train")
    with pytest.raises(DataError, match=r"has no split test for mrpc"):
        source.read("test")
    monkeypatch.setattr(
        datasets, "load_dataset", lambda *arguments: datasets.DatasetDict(train=rows.remove_columns("label"))
    )
    with pytest.raises(DataError, match=r"has no column label for mrpc"):
        HubSource(TASKS["mrpc"]).read("train")
