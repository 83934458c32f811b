"""Metrics of how scores rank texts: the area under the ROC curve, and average precision."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat


class RankedScores(Metric):
    """Every text's scores and labels, for metrics of how the scores rank the texts.

    With two classes the scores are those of label 1; with more, and with several labels per text, each label is scored
    against the rest and the metric is the labels' mean, as scikit-learn's ``average="macro"``.

    Args:
        num_labels: Number of labels.
        multi_label: Whether labels are a 0/1 matrix or class numbers.
        mean_of_labels: The metric: a function of scores and truth, both (texts, labels).
    """

    scores: list[Tensor]
    labels: list[Tensor]

    def __init__(self, num_labels: int, multi_label: bool, mean_of_labels: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.mean_of_labels = mean_of_labels
        self.num_labels = num_labels
        self.multi_label = multi_label
        self.add_state("scores", default=[], dist_reduce_fx="cat")
        self.add_state("labels", default=[], dist_reduce_fx="cat")

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Add a batch's logits (batch, labels) and labels."""
        self.scores.append(logits.detach().float())
        self.labels.append(labels)

    def compute(self) -> Tensor:
        place = "cpu" if self.device.type == "mps" else self.device  # MPS has no float64
        logits, labels = dim_zero_cat(self.scores).to(place), dim_zero_cat(self.labels).to(place)
        return self._mean(logits, labels).to(self.device)

    def _mean(self, logits: Tensor, labels: Tensor) -> Tensor:
        if self.multi_label:
            return self.mean_of_labels(logits, labels == 1)  # in the order of the probabilities
        # In float32 all those that a model is sure of are 1.
        probabilities = logits.double().softmax(dim=1)
        if self.num_labels == 2:
            return self.mean_of_labels(probabilities[:, 1:], (labels == 1).unsqueeze(1))
        return self.mean_of_labels(probabilities, nn.functional.one_hot(labels, self.num_labels) == 1)


def area_under_roc(scores: Tensor, is_label: Tensor) -> Tensor:
    """Return the area under the receiver operating characteristic, the mean over labels.

    It is undefined, NaN for scikit-learn, for a label that all texts or none have: the mean is over the other labels,
    and one half where there is none.

    Args:
        scores: Scores (texts, labels).
        is_label: Which labels are right (texts, labels).
    """
    areas = [
        # The share of pairs of a positive and a negative text that are in order; a tie is half a pair.
        (positives * (negatives.cumsum(0) - negatives / 2)).sum() / (positives.sum() * negatives.sum())
        for positives, negatives in _counts_by_score(scores, is_label)
        if positives.any() and negatives.any()
    ]
    return torch.stack(areas).mean().float() if areas else scores.new_tensor(0.5, dtype=torch.float32)


def average_precision(scores: Tensor, is_label: Tensor) -> Tensor:
    """Return the precision at each score, weighted by the gain in recall; 0 for a label that no text has.

    Args:
        scores: Scores (texts, labels).
        is_label: Which labels are right (texts, labels).
    """
    values = []
    for positives, negatives in _counts_by_score(scores, is_label):
        found = positives.flip(0).cumsum(0)
        taken = found + negatives.flip(0).cumsum(0)
        values.append((positives.flip(0) * found / taken).sum() / positives.sum().clamp(min=1))
    return torch.stack(values).mean().float()


def _counts_by_score(scores: Tensor, is_label: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Return for each label the numbers of positive and negative texts at each distinct score, the lowest first."""
    counts = []
    for of_label, truth in zip(scores.T, is_label.T, strict=True):
        distinct, place = of_label.unique(return_inverse=True)
        sizes = torch.bincount(place, minlength=len(distinct)).double()
        positives = torch.bincount(place[truth], minlength=len(distinct)).double()
        counts.append((positives, sizes - positives))
    return counts
