"""Loss and metrics of an evaluation, with scikit-learn's and SciPy's values."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torchmetrics import (
    MeanAbsoluteError,
    MeanMetric,
    MeanSquaredError,
    Metric,
    PearsonCorrCoef,
    SpearmanCorrCoef,
)
from torchmetrics.classification import (
    BinaryF1Score,
    MulticlassAccuracy,
    MulticlassConfusionMatrix,
    MulticlassF1Score,
    MultilabelExactMatch,
    MultilabelF1Score,
)

from lightning_modules.errors import ModelError
from lightning_modules.losses import ProblemType, check_problem_type
from lightning_modules.ranking_metrics import RankedScores, area_under_roc, average_precision

DEFAULTS: dict[ProblemType, tuple[str, ...]] = {
    "single_label_classification": ("accuracy",),
    "multi_label_classification": ("micro_f1", "macro_f1"),
    "regression": ("pearson", "spearman"),
}
_LOWER_IS_BETTER = ("mae", "rmse", "loss")


class MatthewsCorrelation(MulticlassConfusionMatrix):
    """Matthews' correlation coefficient as scikit-learn defines it: 0 where one class alone is predicted or present.

    torchmetrics 1.9.0 replaces a zero in its denominator by a small number, which gives 0.28 for ten equal predictions
    of which seven are right, and 0.98 for one wrong prediction among a hundred rows of one class.

    Args:
        num_classes: Number of classes.
    """

    def compute(self) -> Tensor:
        counts = super().compute().cpu().double()  # MPS has no float64
        predicted, present, total = counts.sum(dim=0), counts.sum(dim=1), counts.sum()
        covariance = counts.trace() * total - predicted @ present
        spread = (total**2 - predicted @ predicted) * (total**2 - present @ present)
        return torch.where(spread > 0, covariance / spread.sqrt(), 0.0).to(self.device, torch.float32)


class PearsonCorrelation(PearsonCorrCoef):
    """Pearson's correlation coefficient, 0 for constant scores or targets, where it is undefined.

    torchmetrics 1.9.0 gives NaN there, and 0 for Spearman's coefficient; a NaN would end a run under EarlyStopping.
    In float32 it takes for constant, too, what varies little beside one value far from all others.
    """

    def compute(self) -> Tensor:
        if self.device.type != "mps":  # which has no float64
            for name, value in self.metric_state.items():
                setattr(self, name, cast(Tensor, value).double())
        return super().compute().nan_to_num(0.0).float()


def _spearman(num_labels: int) -> Metric:
    with warnings.catch_warnings():
        # torchmetrics 1.9.0 warns of every one that it keeps all scores, which no rank correlation does without.
        warnings.filterwarnings("ignore", "Metric `SpearmanCorrcoef` will save all targets")
        return SpearmanCorrCoef()


# What makes the metrics of each kind of task, by name, from the number of labels. ``f1`` is that of label 1 with two
# labels, as GLUE scores MRPC and QQP, and macro-averaged with more; ``accuracy`` with several labels per text counts
# the texts whose labels are all right; ``mae`` and ``rmse`` are in the targets' units.
METRICS: dict[ProblemType, dict[str, Callable[[int], Metric]]] = {
    "single_label_classification": {
        "accuracy": partial(MulticlassAccuracy, average="micro"),
        "f1": lambda num_labels: BinaryF1Score() if num_labels == 2 else MulticlassF1Score(num_labels),
        "macro_f1": partial(MulticlassF1Score, average="macro"),
        "micro_f1": partial(MulticlassF1Score, average="micro"),
        "matthews": MatthewsCorrelation,
        "auroc": partial(RankedScores, multi_label=False, mean_of_labels=area_under_roc),
        "average_precision": partial(RankedScores, multi_label=False, mean_of_labels=average_precision),
    },
    "multi_label_classification": {
        "micro_f1": partial(MultilabelF1Score, average="micro"),
        "macro_f1": partial(MultilabelF1Score, average="macro"),
        "accuracy": MultilabelExactMatch,
        "auroc": partial(RankedScores, multi_label=True, mean_of_labels=area_under_roc),
        "average_precision": partial(RankedScores, multi_label=True, mean_of_labels=average_precision),
    },
    "regression": {
        "pearson": lambda num_labels: PearsonCorrelation(),
        "spearman": _spearman,
        "mae": lambda num_labels: MeanAbsoluteError(),
        "rmse": lambda num_labels: MeanSquaredError(squared=False),
    },
}


def check_metrics(names: Sequence[str] | None, problem_type: ProblemType) -> tuple[str, ...]:
    """Return the names of a task's metrics, its main metric first.

    Args:
        names: The names. Default: accuracy, micro and macro F1 for several labels per text, or both correlations.
        problem_type: The kind of task.

    Raises:
        ModelError: if one does not score the kind of task.
    """
    names = DEFAULTS[problem_type] if names is None else tuple(names)
    allowed = METRICS[problem_type]
    for name in names:
        if name not in allowed:
            kind = problem_type.replace("_", "-").replace("-classification", " classification")
            raise ModelError(f"metrics: {name!r} does not score a {kind}; allowed: {', '.join(allowed)}")
    return names


def build_metric(name: str, num_labels: int, problem_type: ProblemType | None = None) -> Metric:
    """Return the torchmetrics metric of a name.

    Args:
        name: One of :data:`METRICS` for the kind of task.
        num_labels: Number of labels; 1 means regression.
        problem_type: The kind of task. Default: from the number of labels.

    Raises:
        ModelError: if the name is not one of these.
    """
    problem_type = check_problem_type(problem_type, num_labels)
    check_metrics((name,), problem_type)
    return METRICS[problem_type][name](num_labels)


def mode_of(name: str) -> Literal["min", "max"]:
    """Return whether the least or the largest value of a metric, or of the loss, is the best one."""
    return "min" if name in _LOWER_IS_BETTER else "max"


def predicted_labels(outputs: Tensor, problem_type: ProblemType) -> Tensor:
    """Return the class (batch,) of logits, the 0/1 matrix (batch, labels) of multi-label ones, or scores themselves."""
    if problem_type == "regression":
        return outputs
    return outputs.argmax(dim=-1) if problem_type == "single_label_classification" else (outputs > 0).long()


class EvaluationMetrics(nn.Module):
    """Loss and task metrics of one evaluation set, exact over batches of any size.

    Several ranks are scored together, each example once
    (:class:`~lightning_modules.trainer.whole_evaluation.WholeEvaluation`).

    Args:
        names: Names that :func:`build_metric` knows. Default: see :func:`check_metrics`.
        num_labels: Number of labels; 1 means regression.
        problem_type: The kind of task. Default: from the number of labels.
    """

    def __init__(self, names: Sequence[str] | None, num_labels: int, problem_type: ProblemType | None = None) -> None:
        super().__init__()
        self.problem_type = check_problem_type(problem_type, num_labels)
        # A batch whose loss is NaN makes the mean NaN. By default torchmetrics 1.9.0 leaves it out, and with
        # nan_strategy="disable" it takes all weights for 1.
        self.loss = MeanMetric(nan_strategy=math.nan)
        self.scores = nn.ModuleDict(
            {
                name: build_metric(name, num_labels, self.problem_type)
                for name in check_metrics(names, self.problem_type)
            }
        )

    def reset(self) -> None:
        """Forget all batches."""
        for metric in self.named_metrics().values():
            metric.reset()

    def update(self, loss: Tensor, outputs: Tensor, labels: Tensor, weight: float | Tensor | None = None) -> None:
        """Add one batch.

        Args:
            loss: Its mean loss.
            outputs: Its (batch, labels) logits or (batch,) scores.
            labels: Its labels.
            weight: What the mean loss is a mean over. Default: the batch's rows.
        """
        if self.problem_type == "multi_label_classification":
            labels = labels.long()
        predicted = predicted_labels(outputs, self.problem_type)
        for metric in self.named_metrics().values():
            if isinstance(metric, RankedScores):
                metric.update(outputs, labels)
                continue
            # bf16-true and 16-true convert metrics with the model, and a sum in half precision soon stops growing.
            metric.to(torch.float32)
            if metric is self.loss:
                metric.update(loss, weight=labels.shape[0] if weight is None else weight)
            else:
                metric.update(predicted, labels)

    def named_metrics(self) -> dict[str, Metric]:
        """Return ``{"loss": …, "accuracy": …}``, as metric objects that Lightning computes, synchronises and resets."""
        return {"loss": self.loss, **{name: cast(Metric, metric) for name, metric in self.scores.items()}}


def reset_metrics(sets: nn.ModuleList) -> None:
    """Reset the :class:`EvaluationMetrics` of several evaluation sets before an evaluation.

    One that was interrupted has left its sums behind, in inference mode as tensors that a fit cannot use.
    """
    for metrics in sets:
        cast(EvaluationMetrics, metrics).reset()
