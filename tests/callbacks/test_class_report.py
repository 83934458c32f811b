"""The table of classes against scikit-learn, in a real Trainer and by itself."""

from __future__ import annotations

import csv
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy
from sklearn.metrics import classification_report, precision_recall_fscore_support
from torch.optim import AdamW

from callbacks import ClassReport
from callbacks.scores.class_scores import averages, class_counts, class_scores, printed_table
from lightning_modules import SequenceClassifier
from tests.quiet_trainer import quiet_trainer
from tests.tiny_models import TinyData, save_tiny_bert

NAMES = ("alpha", "beta, the second", "gamma")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny_bert(tmp_path_factory.mktemp("tiny"), num_labels=3))


def trainer(tmp_path: Path, **settings: Any) -> Trainer:
    return quiet_trainer(**{"max_epochs": 3, "default_root_dir": tmp_path} | settings)


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


@settings(max_examples=40)
@given(seed=st.integers(0, 10**6), count=st.integers(1, 20), several=st.booleans())
def test_scores_are_scikit_learns(seed: int, count: int, several: bool) -> None:
    random = np.random.default_rng(seed)
    shape, high = ((count, 3), 2) if several else ((count,), 3)
    labels, predicted = random.integers(high, size=shape), random.integers(high, size=shape)
    counts = sum(
        class_counts(torch.tensor(predicted[rows]), torch.tensor(labels[rows]), 3)
        for rows in np.array_split(np.arange(count), 2)
    )
    rows = class_scores(counts.tolist(), NAMES)
    expected = precision_recall_fscore_support(labels, predicted, labels=[0, 1, 2], zero_division=0)
    for name, index in (("precision", 0), ("recall", 1), ("f1", 2), ("texts", 3)):
        assert [getattr(row, name) for row in rows] == pytest.approx(expected[index].tolist())
    report = classification_report(labels, predicted, output_dict=True, zero_division=0)
    for row, name in zip(averages(rows, several), ("macro avg", "weighted avg"), strict=True):
        found = (row.precision, row.recall, row.f1, row.texts)
        assert found == pytest.approx(
            tuple(report[name][key] for key in ("precision", "recall", "f1-score", "support"))
        )


def test_the_printed_table_is_aligned() -> None:
    lines = printed_table(class_scores([[1, 2, 3], [0, 0, 0], [10000, 20000, 10000]], NAMES), "classes").splitlines()
    assert len({len(line) for line in lines[1:]}) == 1
    assert lines[2].split() == ["alpha", "0.5000", "0.3333", "0.4000", "2", "3"]
    (*_, last) = printed_table(class_scores([[1, 2, 3]], ["two\nlines"]), "classes").splitlines()
    assert last.startswith("two lines     0.5000")


class Own(SequenceClassifier):
    """A module of one's own, of whose loss nobody knows that the least is the best."""


def test_a_fit_ends_with_the_table_of_the_best_checkpoint(
    tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module = Own(tiny, 3, NAMES, optimizer=partial(AdamW, lr=3e-3))
    saver = ModelCheckpoint(dirpath=tmp_path / "saved", monitor="val/loss", mode="max")  # the first epoch is the best
    data = TinyData(60, num_labels=3)
    run = trainer(tmp_path, max_epochs=12, enable_checkpointing=True, callbacks=[ClassReport(), saver])
    run.fit(module, data)
    rows = table(tmp_path / "class_report.csv")
    assert [row["class"] for row in rows] == list(NAMES)
    printed = capsys.readouterr().out
    assert printed.count("classes (best checkpoint)") == 1
    assert "beta, the second" in printed

    best = SequenceClassifier.load_from_checkpoint(saver.best_model_path)
    labels = torch.stack([row["labels"] for row in data.examples])
    predictions = trainer(tmp_path).predict(best, data)
    assert predictions is not None
    predicted = torch.cat([batch["probabilities"] for batch in predictions]).argmax(-1)
    recall = precision_recall_fscore_support(labels, predicted, zero_division=0)[1]
    assert [float(row["recall"]) for row in rows] == pytest.approx(recall.tolist())
    last = trainer(tmp_path).predict(module, data)
    assert last is not None
    assert not torch.equal(torch.cat([batch["probabilities"] for batch in last]).argmax(-1), predicted)


def test_validate_and_test_have_tables_of_their_own(
    tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module, data = SequenceClassifier(tiny, 3, NAMES), TinyData(30, num_labels=3)
    trainer(tmp_path, callbacks=[ClassReport()]).validate(module, data, verbose=False)
    trainer(tmp_path, callbacks=[ClassReport()]).test(module, data, verbose=False)
    printed = capsys.readouterr().out
    assert "classes (validation)" in printed
    assert "classes (test)" in printed
    assert table(tmp_path / "class_report.csv") == table(tmp_path / "class_report_test.csv")


def test_a_table_that_cannot_be_finished_leaves_the_one_before(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, data = SequenceClassifier(tiny, 3, NAMES), TinyData(30, num_labels=3)
    trainer(tmp_path, callbacks=[ClassReport()]).validate(module, data, verbose=False)
    before = (tmp_path / "class_report.csv").read_text()

    def full_disk(stream: Any) -> Any:
        stream.write("class,")
        raise OSError("No space left on device")

    monkeypatch.setattr(csv, "writer", full_disk)
    with pytest.raises(OSError, match="No space left"):
        trainer(tmp_path, callbacks=[ClassReport()]).validate(module, data, verbose=False)
    assert [path.name for path in tmp_path.glob("*class_report*")] == ["class_report.csv"]
    assert (tmp_path / "class_report.csv").read_text() == before


def test_several_labels_per_text_have_one_too(tiny: str, tmp_path: Path) -> None:
    data = TinyData(30, num_labels=3)
    for row in data.examples:
        row["labels"] = torch.tensor([1.0, float(row["labels"] == 1), 0.0])
    module = SequenceClassifier(tiny, 3, NAMES, problem_type="multi_label_classification")
    trainer(tmp_path, callbacks=[ClassReport()]).validate(module, data, verbose=False)
    assert [int(row["texts"]) for row in table(tmp_path / "class_report.csv")] == [30, 10, 0]


def test_a_regression_has_none_and_a_trial_run_writes_none(tiny: str, tmp_path: Path) -> None:
    trainer(tmp_path, callbacks=[ClassReport()]).fit(
        SequenceClassifier(tiny, num_labels=1, optimizer=partial(AdamW, lr=1e-3)), TinyData(num_labels=1)
    )
    trainer(tmp_path, callbacks=[ClassReport()], fast_dev_run=True).fit(
        SequenceClassifier(tiny, 3, NAMES, optimizer=partial(AdamW, lr=1e-3)), TinyData(num_labels=3)
    )
    assert not list(tmp_path.rglob("class_report*"))


@pytest.mark.distributed
def test_ranks_are_counted_together(tiny: str, tmp_path: Path) -> None:
    strategy = DDPStrategy(start_method="fork", process_group_backend="gloo")
    run = trainer(tmp_path, callbacks=[ClassReport()], strategy=strategy, devices=2)
    run.validate(SequenceClassifier(tiny, 3, NAMES), TinyData(60, num_labels=3), verbose=False)
    assert [int(row["texts"]) for row in table(tmp_path / "class_report.csv")] == [20, 20, 20]
