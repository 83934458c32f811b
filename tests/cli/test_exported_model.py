"""Exported models on new texts from the command line, without the rows that they were trained on."""

from __future__ import annotations

import csv
import inspect
import json
from pathlib import Path

import datasets
import pytest
import yaml
from jsonargparse import Namespace

import cli
from datamodules import TextDataModule
from lightning_modules import SequenceClassifier
from linetune.exported_model import fill_in_from_model
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
    with pytest.raises(SystemExit):  # the default is given, too
        cli.main([*common, "--model.model", "model", "--data.max_length", "128"])
    assert "linetune: error: max_length 128 is out of range for the tokenizer model: 3 to 24" in capsys.readouterr().err
    with pytest.raises(SystemExit):  # a model that is not trained tells no task
        cli.main([*common, "--model.model", "offline:all-MiniLM-L6-v2"])
    assert "linetune: error: train_file: not given; " in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main([*common, "--model.model", "runs/own/model"])
    assert "linetune: error: model: there is no folder runs/own/model\n" in capsys.readouterr().err


def filled_in(arguments: list[str], subcommand: str = "predict", **given: str) -> Namespace:
    options = {name: each.default for name, each in inspect.signature(TextDataModule).parameters.items()} | given
    data = Namespace(class_path="datamodules.TextDataModule", init_args=Namespace(**options))
    config = Namespace(data=data, model=Namespace(init_args=Namespace(model="model")))
    fill_in_from_model(config, subcommand, arguments)
    return data.init_args


def test_windows_are_those_of_the_training_also_beside_training_rows(tmp_path: Path) -> None:
    reading = {"text_columns": ["first"], "max_length": 16, "long_texts": "windows", "window_overlap": 0}
    tiny_classifier(tmp_path / "tiny").export("model", facts={"reading": reading})
    found = filled_in(["predict", "--data.max_windows", "4"])
    assert (found.max_length, found.long_texts, found.window_overlap) == (16, "windows", 0)
    assert (found.text_columns, found.label_names) == (["first"], ["bad", "good"])
    found = filled_in(["predict", "--data.long_texts=truncate", "--data.init_args.max_length", "128"])
    assert (found.max_length, found.long_texts, found.window_overlap) == (128, "truncate", 0)
    # Which columns there are, and what the labels are, the training rows tell.
    for rows in ("train_file", "dataset"):
        found = filled_in([], "test", **{rows: "rows.csv"})
        assert (found.max_length, found.long_texts, found.window_overlap) == (16, "windows", 0)
        assert (found.text_columns, found.label_names, found.problem_type) == (None, None, None)


def test_a_saved_data_set_without_labels_is_predicted(tmp_path: Path) -> None:
    """Its only split is called train, as that of a training."""
    classifier = tiny_classifier(tmp_path / "tiny")
    classifier.export("model", facts={"reading": {"text_columns": ["first"], "max_length": 16}})
    datasets.Dataset.from_dict({"first": TEXTS, "id": list(range(40))}).save_to_disk("saved")
    rows = ["--data", "datamodules.TextDataModule", "--data.dataset", "saved", "--data.predict_split", "train"]
    cli.main(["predict", "--config", "t.yaml", "--model.model", "model", *rows])
    with open("predictions.csv", newline="") as stream:
        found = [row["prediction"] for row in csv.DictReader(stream)]
    assert found == [each["label"] for each in classifier.predict_texts(TEXTS, max_length=16)]
