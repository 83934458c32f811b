"""A data set of one's own on a hub on loopback, read by the hub's clients in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys

import datasets
import pytest

from tests.hub_server import HubServer, client_environment, write_glue_repository

READ = """
import json, sys
from datamodules import DataError, TextDataModule

options = {"dataset": "org/reviews", "text_columns": "text", "tokenizer": "offline:all-MiniLM-L6-v2"}
data = TextDataModule(**options, dataset_config="english", val_split="dev", cache_dir=sys.argv[1])
data.setup("fit")
found = {"names": data.label_names, "train": len(data.datasets_for("train")[0])}
(batch,) = data.val_dataloader()
found["labels"] = {int(row): int(label) for row, label in zip(batch["idx"], batch["labels"])}
errors = []
for wrong in ({}, {"dataset_config": "english", "train_split": "training"}):
    try:
        TextDataModule(**options, **wrong).num_labels
    except DataError as error:
        errors.append(str(error))
print(json.dumps({**found, "errors": errors}))
"""


@pytest.mark.network
def test_a_data_set_with_configurations_and_split_names(tmp_path):
    features = datasets.Features(text=datasets.Value("string"), label=datasets.ClassLabel(names=["yes", "no"]))
    rows = datasets.Dataset.from_dict({"text": [f"text {row}" for row in range(6)], "label": [0, 1] * 3}, features)
    tables = {"english": {"train": rows, "dev": rows.select([1, 2])}, "german": {"train": rows}}
    folder = write_glue_repository(tmp_path / "reviews", tables)
    with HubServer({"datasets/org/reviews": folder}) as hub:
        done = subprocess.run(
            [sys.executable, "-c", READ, str(tmp_path / "cache")],
            env=client_environment(hub.url, tmp_path / "home"),
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["names"] == ["yes", "no"]
    assert found["train"] == 6
    assert found["labels"] == {"0": 1, "1": 0}
    without_configuration, without_split = found["errors"]
    assert without_configuration.startswith("dataset: cannot load org/reviews (")
    assert "\n" not in without_configuration
    assert without_split == "train_split: org/reviews has no split 'training'; its splits are train, dev"
