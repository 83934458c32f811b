"""Exported models on new texts from the command line, without the rows that they were trained on."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import yaml

import cli
from lightning_modules import SequenceClassifier
from tests.tiny_texts import tiny_classifier, tiny_texts

TEXTS, OTHERS = tiny_texts(40), tiny_texts(40, seed=1)
# Kind of task: its label column, and the labels of two rows in turn.
KINDS = {
    "single_label_classification": ("stars", ["bad", "good"]),
    "multi_label_classification": ("stars", [["bad"], ["bad", "good"]]),
    "regression": ("stars", [0.5, 2.25]),
}


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["linetune"])
    Path("t.yaml").write_text(yaml.safe_dump({"trainer": {"enable_progress_bar": False, "logger": False}}))


def write_rows(name: str, labels: list | None, pair: bool) -> None:
    with open(name, "w") as stream:
        for number, (text, other) in enumerate(zip(TEXTS, OTHERS, strict=True)):
            row = {"id": f"row {number}", "first": text} | ({"second": other} if pair else {})
            row |= {} if labels is None else {"stars": labels[number % 2]}
            stream.write(json.dumps(row) + "\n")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pair", [False, True])
def test_a_fit_exports_a_folder_that_predicts_and_tests_by_itself(
    tmp_path: Path,
    kind: str,
    pair: bool,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    tiny_classifier(tmp_path / "tiny")
    column, labels = KINDS[kind]
    write_rows("train.jsonl", labels, pair)
    write_rows("new.jsonl", None, pair)
    texts = ["first", "second"] if pair else ["first"]
    common = ["--config", "t.yaml", "--trainer.accelerator", "cpu", "--data", "datamodules.TextDataModule"]
    own = ["--data.train_file", "train.jsonl", "--data.text_columns", json.dumps(texts), "--data.label_column", column]
    fit = ["--trainer.callbacks", "callbacks.ModelExporter", "--trainer.callbacks.folder", "run"]
    fit += ["--trainer.max_steps", "1", "--data.max_length", "20", "--model.model", "tiny"]
    cli.main(["fit", *common, *own, *fit, "--model.optimizer", "optimizers.SGDSLS"])

    cli.main(["predict", *common, "--model.model", "run/model", "--data.predict_file", "new.jsonl"])
    (said,) = [message for message in caplog.messages if message.startswith("run/model: ")]
    assert f"text_columns {' '.join(texts)}" in said
    assert f"problem_type {kind}" in said
    assert "max_length 20" in said
    with open("predictions.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    inputs = list(zip(TEXTS, OTHERS, strict=True)) if pair else TEXTS
    expected = SequenceClassifier.from_exported("run/model").predict_texts(inputs)
    if kind == "regression":
        assert [float(row["prediction"]) for row in rows] == pytest.approx(
            [each["score"] for each in expected], abs=1e-5
        )
    else:
        for name in ("bad", "good"):
            found = [float(row[f"probability_{name}"]) for row in rows]
            assert found == pytest.approx([each["probabilities"][name] for each in expected], abs=1e-5)

    for subcommand, split in (("test", "test"), ("validate", "val")):
        cli.main([subcommand, *common, "--model.model", "run/model", f"--data.{split}_file", "train.jsonl"])
        assert f"{split}/loss" in capsys.readouterr().out


def test_what_the_user_gives_comes_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_classifier(tmp_path / "tiny").export("model", facts={"reading": {"text_columns": ["first"], "max_length": 16}})
    write_rows("new.jsonl", None, pair=True)
    common = [
        "predict",
        "--config",
        "t.yaml",
        "--data",
        "datamodules.TextDataModule",
        "--data.predict_file",
        "new.jsonl",
    ]
    cli.main([*common, "--model.model", "model", "--data.text_columns", "second"])
    with open("predictions.csv", newline="") as stream:
        found = [float(row["probability_good"]) for row in csv.DictReader(stream)]
    expected = SequenceClassifier.from_exported("model").predict_texts(OTHERS)
    assert found == pytest.approx([each["probabilities"]["good"] for each in expected], abs=1e-5)

    capsys.readouterr()
    with pytest.raises(SystemExit):  # a model that is not trained tells no task
        cli.main([*common, "--model.model", "offline:all-MiniLM-L6-v2"])
    assert "linetune: error: train_file: not given; " in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main([*common, "--model.model", "runs/own/model"])
    assert "linetune: error: model: there is no folder runs/own/model\n" in capsys.readouterr().err
