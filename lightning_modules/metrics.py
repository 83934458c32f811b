"""Loss and metrics of an evaluation, as GLUE defines them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import MeanMetric, Metric, MetricCollection, PearsonCorrCoef, SpearmanCorrCoef
from torchmetrics.classification import (
    BinaryF1Score,
    MulticlassAccuracy,
    MulticlassConfusionMatrix,
    MulticlassF1Score,
)

from lightning_modules.errors import ModelError

CLASSIFICATION = ("accuracy", "f1", "matthews")
REGRESSION = ("pearson", "spearman")


class MatthewsCorrelation(MulticlassConfusionMatrix):
    """Matthews' correlation coefficient as scikit-learn defines it: 0 where one class alone is predicted or present.

    torchmetrics 1.9.0 replaces a zero in its denominator by a small number, which gives 0.28 for ten equal predictions
    of which seven are right, and 0.98 for one wrong prediction among a hundred rows of one class.

    Args:
        num_classes: Number of classes.
    """

    def compute(self) -> Tensor:
        counts = super().compute().double()
        predicted, present, total = counts.sum(dim=0), counts.sum(dim=1), counts.sum()
        covariance = counts.trace() * total - predicted @ present
        spread = (total**2 - predicted @ predicted) * (total**2 - present @ present)
        return torch.where(spread > 0, covariance / spread.sqrt(), 0.0).float()


class PearsonCorrelation(PearsonCorrCoef):
    """Pearson's correlation coefficient, 0 for constant scores or targets, where it is undefined.

    torchmetrics 1.9.0 gives NaN there, and 0 for Spearman's coefficient; a NaN would end a run under EarlyStopping.
    """

    def compute(self) -> Tensor:
        return super().compute().nan_to_num(0.0)


def build_metric(name: str, num_labels: int) -> Metric:
    """Return the torchmetrics metric of a name.

    Args:
        name: ``accuracy``, ``f1`` (of label 1 with two labels, as GLUE scores MRPC and QQP; macro-averaged with more)
            or ``matthews`` for classification; ``pearson`` or ``spearman`` for regression.
        num_labels: Number of labels; 1 means regression.

    Raises:
        ModelError: if the name is not one of these or does not fit the number of labels.
    """
    allowed = REGRESSION if num_labels == 1 else CLASSIFICATION
    if name not in allowed:
        kind = "regression (1 label)" if num_labels == 1 else f"classification ({num_labels} labels)"
        raise ModelError(f"metrics: {name!r} does not score a {kind}; allowed: {', '.join(allowed)}")
    if name == "accuracy":
        return MulticlassAccuracy(num_labels, average="micro")
    if name == "f1":
        return BinaryF1Score() if num_labels == 2 else MulticlassF1Score(num_labels)
    if name == "matthews":
        return MatthewsCorrelation(num_labels)
    return PearsonCorrelation() if name == "pearson" else SpearmanCorrCoef()


class EvaluationMetrics(torch.nn.Module):
    """Loss and task metrics of one evaluation set, exact over batches of any size.

    Several ranks are scored together. Where their number does not divide the examples, Lightning's sampler fills up
    with repeated examples, fewer than there are ranks, which count twice, as Lightning warns; one device scores each
    once.

    Args:
        names: Names that :func:`build_metric` knows. Default: ``accuracy``, or ``pearson`` and ``spearman`` for
            regression.
        num_labels: Number of labels; 1 means regression.
    """

    def __init__(self, names: Sequence[str] | None, num_labels: int) -> None:
        super().__init__()
        if names is None:
            names = REGRESSION if num_labels == 1 else ("accuracy",)
        self.loss = MeanMetric()
        self.scores = MetricCollection({name: build_metric(name, num_labels) for name in names})

    def reset(self) -> None:
        """Forget all batches."""
        self.loss.reset()
        self.scores.reset()

    def update(self, loss: Tensor, outputs: Tensor, labels: Tensor) -> None:
        """Add one batch: its mean loss, its ``(batch, labels)`` logits or ``(batch,)`` scores, its labels."""
        # bf16-true and 16-true convert metrics with the model, and a sum in half precision soon stops growing.
        self.to(torch.float32)
        self.loss.update(loss, weight=labels.shape[0])
        self.scores.update(outputs if outputs.dim() == 1 else outputs.argmax(dim=-1), labels)

    def named_metrics(self) -> dict[str, Metric]:
        """Return ``{"loss": …, "accuracy": …}``, as metric objects that Lightning computes, synchronises and resets."""
        return {"loss": self.loss, **{str(name): metric for name, metric in self.scores.items()}}
