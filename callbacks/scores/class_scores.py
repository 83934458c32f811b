"""Precision, recall and F1 of every class, with scikit-learn's values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor


def has_classes(module: Any) -> bool:
    """Return whether a module says that it classifies."""
    return getattr(module, "problem_type", "regression") != "regression"


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
    """Return the table as text, one row a line, whatever line breaks names hold."""
    names = [" ".join(row.name.split()) for row in rows]
    width = max(map(len, [title, *names]))
    lines = [f"{title:<{width}}  precision    recall        f1 predicted     texts"]
    lines += [
        f"{name:<{width}}  {row.precision:9.4f} {row.recall:9.4f} {row.f1:9.4f} {row.predicted:9d} {row.texts:9d}"
        for name, row in zip(names, rows, strict=True)
    ]
    return "\n".join(["", *lines])


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
