"""A table of precision, recall and F1 of every class."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from callbacks.best_validation import BestValidation
from callbacks.new_file import new_file
from callbacks.run_folder import run_folder


class ClassScores(NamedTuple):
    """A row of the table.

    Args:
        name: Name of the class, or what the row averages.
        precision: Share of the texts with this prediction that are of the class; 0 where there is none.
        recall: Share of the texts of the class with this prediction; 0 where there is none.
        f1: Harmonic mean of the two; 0 where both are.
        predicted: Number of texts with this prediction.
        texts: Number of texts of the class.
    """

    name: str
    precision: float
    recall: float
    f1: float
    predicted: int
    texts: int


class ClassReport(Callback):
    """Writes and prints precision, recall and F1 of every class, with scikit-learn's values.

    Every validation writes ``class_report.csv`` in the run's folder (:func:`~callbacks.run_folder`), and so does
    ``test``, as ``class_report_test.csv``. At the end of ``fit`` file and printed table are about the validation whose
    weights are the best checkpoint, or the last one where it is of no validation of this fit; under
    PretrainedInterpolation about the weights as trained. Of several evaluation sets it takes the first. It does nothing
    for a regression, and writes no file with ``fast_dev_run``.

    The module is a :class:`~lightning_modules.SequenceClassifier`, or has its ``problem_type`` and ``label_names``, and
    evaluation steps that return ``predicted`` and ``labels``.

    Example::

        Trainer(callbacks=[ClassReport()])
    """

    def __init__(self) -> None:
        self._counts: Tensor | None = None
        self._validations: BestValidation[list[ClassScores]] = BestValidation()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._validations = BestValidation()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._counts = None

    on_test_start = on_validation_start

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if dataloader_idx == 0 and has_classes(pl_module):
            counts = class_counts(outputs["predicted"], outputs["labels"], len(pl_module.label_names))  # type: ignore
            self._counts = counts if self._counts is None else self._counts + counts

    on_test_batch_end = on_validation_batch_end

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        rows = self._rows(trainer, pl_module)
        if rows and not trainer.sanity_checking:
            self._write(trainer, rows, "class_report.csv")
            if trainer.state.fn == "fit":
                self._validations.add(trainer, rows)
            else:
                self._print(trainer, pl_module, rows, "validation")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        rows = self._rows(trainer, pl_module)
        if rows:
            self._write(trainer, rows, "class_report_test.csv")
            self._print(trainer, pl_module, rows, "test")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        chosen = self._validations.chosen(trainer)
        if chosen is not None:
            which, rows = chosen
            self._write(trainer, rows, "class_report.csv")
            self._print(trainer, pl_module, rows, which)

    def _rows(self, trainer: Trainer, pl_module: LightningModule) -> list[ClassScores]:
        if self._counts is None:
            return []
        counts, self._counts = trainer.strategy.reduce(self._counts, reduce_op="sum"), None
        return class_scores(counts.tolist(), pl_module.label_names)  # type: ignore[arg-type]

    def _write(self, trainer: Trainer, rows: Sequence[ClassScores], name: str) -> None:
        folder = Path(run_folder(trainer))  # the ranks agree on it
        if trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            folder.mkdir(parents=True, exist_ok=True)
            with new_file(folder / name) as stream:
                table = csv.writer(stream)
                table.writerow(["class", *ClassScores._fields[1:]])
                table.writerows(rows)

    def _print(self, trainer: Trainer, pl_module: LightningModule, rows: Sequence[ClassScores], which: str) -> None:
        if trainer.is_global_zero:
            several_labels = pl_module.problem_type == "multi_label_classification"
            print(printed_table([*rows, *averages(rows, several_labels)], f"classes ({which})"))


def has_classes(pl_module: LightningModule) -> bool:
    """Return whether a module says that it classifies."""
    return getattr(pl_module, "problem_type", "regression") != "regression"


def class_counts(predicted: Tensor, labels: Tensor, num_labels: int) -> Tensor:
    """Return the numbers of right, predicted and present texts of each class, int64 (labels, 3).

    Args:
        predicted: Class numbers (batch,), or 0 and 1 (batch, labels).
        labels: The same for the truth.
        num_labels: Number of labels.
    """
    if predicted.dim() == 2:
        found, present = predicted.bool(), labels.bool()
        return torch.stack([(each.long()).sum(0) for each in (found & present, found, present)], dim=1)
    right = predicted[predicted == labels]
    return torch.stack([torch.bincount(each, minlength=num_labels) for each in (right, predicted, labels)], dim=1)


def class_scores(counts: Sequence[Sequence[int]], names: Sequence[str]) -> list[ClassScores]:
    """Return the scores of each class.

    Args:
        counts: Numbers of right, predicted and present texts of each class.
        names: Names of the classes.
    """
    return [
        ClassScores(
            name,
            _ratio(right, predicted),
            _ratio(right, present),
            _ratio(2 * right, predicted + present),
            predicted,
            present,
        )
        for name, (right, predicted, present) in zip(names, counts, strict=True)
    ]


def averages(rows: Sequence[ClassScores], several_labels: bool) -> list[ClassScores]:
    """Return the mean over classes, and the one weighted by their texts.

    Args:
        rows: The scores of each class.
        several_labels: Whether texts have several labels; else classes that neither occur nor are predicted are left
            out, as scikit-learn does.
    """
    rows = [row for row in rows if several_labels or row.texts or row.predicted]
    averaged = []
    for name, weights in (("mean of classes", [1] * len(rows)), ("weighted by texts", [row.texts for row in rows])):
        weighted = list(zip(rows, weights, strict=True))
        precision = _ratio(sum(row.precision * weight for row, weight in weighted), sum(weights))
        recall = _ratio(sum(row.recall * weight for row, weight in weighted), sum(weights))
        f1 = _ratio(sum(row.f1 * weight for row, weight in weighted), sum(weights))
        predicted, texts = sum(row.predicted for row in rows), sum(row.texts for row in rows)
        averaged.append(ClassScores(name, precision, recall, f1, predicted, texts))
    return averaged


def printed_table(rows: Sequence[ClassScores], title: str) -> str:
    """Return the table as text, one row a line."""
    width = max(len(title), *(len(row.name) for row in rows))
    lines = [f"{title:<{width}}  precision    recall        f1 predicted     texts"]
    lines += [
        f"{row.name:<{width}}  {row.precision:9.4f} {row.recall:9.4f} {row.f1:9.4f} {row.predicted:9d} {row.texts:9d}"
        for row in rows
    ]
    return "\n".join(["", *lines])


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
