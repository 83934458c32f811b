"""The confusion matrix: its counts against scikit-learn, its picture in TensorBoard's files."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from sklearn.metrics import confusion_matrix
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.optim import AdamW

from callbacks import ConfusionMatrix
from callbacks.reports.confusion_matrix import drawn
from lightning_modules import SequenceClassifier
from tests.quiet_trainer import quiet_trainer
from tests.tiny_models import TinyData, save_tiny_bert


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny_bert(tmp_path_factory.mktemp("tiny"), num_labels=3))


def trainer(tmp_path: Path, *callbacks: Any) -> Trainer:
    return quiet_trainer(
        max_epochs=2,
        logger=TensorBoardLogger(tmp_path, name="run"),
        callbacks=list(callbacks),
        default_root_dir=tmp_path,
    )


def test_every_validation_draws_one(tiny: str, tmp_path: Path) -> None:
    callback, data = ConfusionMatrix(), TinyData(60, num_labels=3)
    module = SequenceClassifier(tiny, num_labels=3, optimizer=partial(AdamW, lr=1e-3))
    run = trainer(tmp_path, callback)
    run.fit(module, data)
    events = EventAccumulator(str(next(tmp_path.rglob("events.*"))), size_guidance={"images": 0}).Reload()
    assert [image.step for image in events.Images("confusion_matrix")] == [7, 15]
    predictions = run.predict(module, data)
    assert predictions is not None
    predicted = torch.cat([batch["probabilities"] for batch in predictions]).argmax(-1)
    labels = torch.stack([row["labels"] for row in data.examples])
    assert callback.matrix is not None
    assert callback.matrix.tolist() == confusion_matrix(labels, predicted, labels=[0, 1, 2]).tolist()


@pytest.mark.parametrize("count", [2, 20, 77, 150])
def test_pictures_of_few_and_of_many_classes(count: int) -> None:
    matrix = np.diag(np.arange(count))  # a class without texts among them
    picture = drawn(matrix, [f"name $ of {number}" for number in range(count)])
    assert picture.dtype == np.uint8
    assert picture.shape[2] == 3
    assert len(np.unique(picture)) > 10


@pytest.mark.parametrize("kind", [{"num_labels": 1}, {"num_labels": 3, "problem_type": "multi_label_classification"}])
def test_other_kinds_of_tasks_have_none(kind: Any, tiny: str, tmp_path: Path) -> None:
    data = TinyData(16, num_labels=kind["num_labels"])
    if "problem_type" in kind:
        for row in data.examples:
            row["labels"] = torch.tensor([1.0, 0.0, 1.0])
    callback = ConfusionMatrix()
    trainer(tmp_path, callback).validate(SequenceClassifier(tiny, **kind), data, verbose=False)
    assert callback.matrix is None


def test_missing_matplotlib_is_said_in_one_line(tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("callbacks.reports.confusion_matrix.find_spec", lambda name: None)
    callback = ConfusionMatrix()
    with pytest.warns(UserWarning, match=r"needs the extra \"studies\": pip install \"linetune\[studies\]\""):
        trainer(tmp_path, callback).validate(
            SequenceClassifier(tiny, num_labels=3), TinyData(num_labels=3), verbose=False
        )
    assert callback.matrix is None
