"""The loss of a task: its problem type, class weights, label smoothing, and the scale of regression targets."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from lightning_modules.errors import ModelError

# As Hugging Face's configurations call them.
ProblemType = Literal["single_label_classification", "multi_label_classification", "regression"]


def check_problem_type(problem_type: ProblemType | None, num_labels: int) -> ProblemType:
    """Return the kind of task.

    Args:
        problem_type: The kind; ``None`` is regression for one label and single-label classification for more.
        num_labels: Number of labels.

    Raises:
        ModelError: if the two do not go together.
    """
    if num_labels < 1:
        raise ModelError(f"num_labels: {num_labels} is not allowed; 1 means regression, 2 or more classification")
    if problem_type is None:
        return "regression" if num_labels == 1 else "single_label_classification"
    allowed = ProblemType.__args__  # type: ignore[attr-defined]
    if problem_type not in allowed:
        raise ModelError(f"problem_type: {problem_type!r} is not allowed; one of {', '.join(allowed)}")
    if (problem_type == "regression") != (num_labels == 1):
        raise ModelError(
            f"problem_type: {problem_type} does not go with num_labels {num_labels}; regression has 1, classification "
            "2 or more"
        )
    return problem_type


@dataclass(frozen=True)
class LossOptions:
    """How the loss of a classification weighs classes and smooths labels.

    Args:
        class_weights: ``balanced``, ``none``, or weights by label name, above 0; a name that is left out has weight 1.
            Balanced weights make all classes count alike: rows / (classes · rows of the class) in the training split.
            With several labels per text a weight is that of a label's positives, and the balanced one
            negatives / positives. What does not occur in the training split has weight 1.
        label_smoothing: Share of each target that is spread evenly over all classes, from 0 to below 1; with several
            labels per text each target moves towards one half.

    Raises:
        ModelError: if an argument is out of range.

    Example::

        SequenceClassifier(num_labels=2, label_names=["ham", "spam"], loss=LossOptions({"spam": 5.0}))
    """

    class_weights: Literal["balanced", "none"] | dict[str, float] = "none"
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise ModelError(f"loss: label_smoothing: {self.label_smoothing} is not allowed; from 0 to below 1")
        if isinstance(self.class_weights, Mapping):
            for name, weight in self.class_weights.items():
                if not 0 < weight < math.inf:
                    raise ModelError(f"loss: class_weights: {name}: {weight} is not allowed; a number above 0")
            # Names that are numbers come without quotes.
            object.__setattr__(self, "class_weights", {str(name): each for name, each in self.class_weights.items()})
        elif self.class_weights not in ("balanced", "none"):
            raise ModelError(
                f"loss: class_weights: {self.class_weights!r} is not allowed; balanced, none, or a weight by label"
            )

    def check_labels(self, problem_type: ProblemType, label_names: Sequence[str]) -> None:
        """Check that the options fit a task.

        Raises:
            ModelError: if a regression has them, or a weight is for a label that there is not.
        """
        if problem_type == "regression" and self != LossOptions():
            raise ModelError("loss: class_weights and label_smoothing are for classification; leave them out")
        unknown = [name for name in self.class_weights if name not in label_names]
        if isinstance(self.class_weights, Mapping) and unknown:
            # What YAML makes of yes, no, on, off, true and false.
            quotes = "; write names that YAML reads as true or false in quotes" * (unknown[0] in ("True", "False"))
            known = ", ".join(label_names)
            raise ModelError(f"loss: class_weights: there is no label {unknown[0]!r}; the labels are {known}{quotes}")

    def weights(self, problem_type: ProblemType, label_names: Sequence[str], statistics: Any) -> Tensor | None:
        """Return the weight of each label, float32 (labels,), or ``None`` where all are 1.

        Args:
            problem_type: The kind of task.
            label_names: Names of the labels, in order.
            statistics: The training split's ``counts`` per label and number of ``rows``; balanced weights are all 1
                without them.
        """
        if isinstance(self.class_weights, Mapping):
            return torch.tensor([float(self.class_weights.get(name, 1.0)) for name in label_names])
        if self.class_weights == "none" or statistics is None:
            return None
        rows, counts = float(statistic(statistics, "rows")), [float(n) for n in statistic(statistics, "counts")]
        if problem_type == "multi_label_classification":
            return torch.tensor([(rows - n) / n if 0 < n < rows else 1.0 for n in counts])
        return torch.tensor([rows / (len(counts) * n) if n else 1.0 for n in counts])


@dataclass(frozen=True, eq=False)
class TaskLoss:
    r"""Mean loss of a batch of texts.

    With one label per text it is the cross-entropy, each text's weighted by its class,

    .. math:: \ell = \sum_i w_{y_i} \ell_i \,/\, \sum_i w_{y_i}

    with several the binary cross-entropy, averaged over texts and labels, positives weighted; for regression the mean
    squared error of standardised scores.

    Args:
        problem_type: The kind of task.
        class_weights: Weight of each label, (labels,). Default: all 1.
        label_smoothing: Share of each target that is spread evenly.
        target_mean: Mean of regression targets, which standardising takes off.
        target_std: Standard deviation of regression targets, which standardising divides by.
    """

    problem_type: ProblemType
    class_weights: Tensor | None = None
    label_smoothing: float = 0.0
    target_mean: float = 0.0
    target_std: float = 1.0

    def __call__(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return the mean loss, float32 under any precision.

        Args:
            outputs: Logits (batch, labels), or standardised scores (batch,).
            labels: Class numbers (batch,), 0 and 1 (batch, labels), or targets (batch,) in the user's units.
        """
        with torch.autocast(outputs.device.type, enabled=False):
            if self.problem_type == "regression":
                return functional.mse_loss(outputs, self.standardised(labels.float()))
            weights = None if self.class_weights is None else self.class_weights.to(outputs.device, non_blocking=True)
            if self.problem_type == "single_label_classification":
                return functional.cross_entropy(outputs, labels, weights, label_smoothing=self.label_smoothing)
            targets = labels.float()
            if self.label_smoothing:
                targets = targets * (1 - self.label_smoothing) + self.label_smoothing / 2
            return functional.binary_cross_entropy_with_logits(outputs, targets, pos_weight=weights)

    def total_weight(self, labels: Tensor) -> int | Tensor:
        """Return what the mean over a batch divides by: the sum of the texts' weights, or their number."""
        if self.class_weights is None or self.problem_type != "single_label_classification":
            return labels.shape[0]
        return self.class_weights.to(labels.device, non_blocking=True)[labels].sum()

    def best_constant(self, statistics: Any) -> Tensor:
        """Return the logits, (labels,), that have the least loss on the training rows if every text gets the same.

        For several labels per text.

        Args:
            statistics: The training split's ``counts`` per label and number of ``rows``. Each label counts as if one
                more text had it, and one more did not, so that none is impossible.
        """
        counts = torch.tensor([float(count) for count in statistic(statistics, "counts")])
        weights = torch.ones_like(counts) if self.class_weights is None else self.class_weights
        shares = (counts + 1) / (float(statistic(statistics, "rows")) + 2)
        shares = shares * (1 - self.label_smoothing) + self.label_smoothing / 2
        return (weights * shares / (1 - shares)).log()

    @property
    def _is_standard(self) -> bool:
        return self.target_mean == 0.0 and self.target_std == 1.0

    def standardised(self, targets: Tensor) -> Tensor:
        """Return targets in units of the standard deviation, from the mean."""
        return targets if self._is_standard else (targets - self.target_mean) / self.target_std

    def in_user_units(self, scores: Tensor) -> Tensor:
        """Return standardised scores in the units of the targets."""
        return scores if self._is_standard else scores * self.target_std + self.target_mean

    def facts(self) -> dict[str, Any]:
        """Return what the training data determined, as plain values for a checkpoint."""
        weights = None if self.class_weights is None else self.class_weights.tolist()
        return {"class_weights": weights, "target_mean": self.target_mean, "target_std": self.target_std}

    def with_facts(self, facts: Mapping[str, Any], options: LossOptions) -> TaskLoss:
        """Return the loss as the training data of a checkpoint determined it.

        Args:
            facts: What :meth:`facts` returned.
            options: Of the present loss. Weights by label name are an argument, which may have changed.
        """
        weights = facts["class_weights"] if options.class_weights == "balanced" else None
        return replace(
            self,
            class_weights=self.class_weights if weights is None else torch.tensor(weights),
            target_mean=facts["target_mean"],
            target_std=facts["target_std"],
        )

    def without_mean(self) -> TaskLoss:
        """Return the loss with regression targets only scaled, to a mean square of 1."""
        return replace(self, target_mean=0.0, target_std=math.hypot(self.target_mean, self.target_std))


def task_loss(
    problem_type: ProblemType, options: LossOptions, label_names: Sequence[str], statistics: Any = None
) -> TaskLoss:
    """Return the loss of a task.

    Args:
        problem_type: The kind of task.
        options: Class weights and label smoothing.
        label_names: Names of the labels, in order.
        statistics: An object or mapping with the training split's ``counts`` and ``rows``, for regression ``mean`` and
            ``std``. Default: balanced weights are all 1, and targets are used as they are.
    """
    weights = options.weights(problem_type, label_names, statistics)
    mean, std = 0.0, 1.0
    if problem_type == "regression" and statistics is not None:
        mean, std = float(statistic(statistics, "mean")), float(statistic(statistics, "std"))
        # Targets that are all alike.
        std = std if math.isfinite(std) and std > 0 else 1.0
    return TaskLoss(problem_type, weights, options.label_smoothing, mean, std)


def statistic(statistics: Any, name: str) -> Any:
    """Return one of the label statistics, of an object or a mapping."""
    return statistics[name] if isinstance(statistics, Mapping) else getattr(statistics, name)
