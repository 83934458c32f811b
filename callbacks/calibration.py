"""How far a classifier's probabilities can be trusted, and the temperature that makes them fit better."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.nn.functional import pad

from callbacks.best_validation import BestValidation

BINS = 15
# Temperatures beyond these mean that the validation set holds no errors, or nothing but errors.
LOWEST, HIGHEST = 0.05, 20.0


class CalibrationResult(NamedTuple):
    """What a validation says of the probabilities.

    Args:
        temperature: What logits are divided by so that the validation set is most likely.
        before: Expected calibration error of the probabilities as they are.
        after: Expected calibration error with the temperature.
        texts: Number of texts that it was measured on.
    """

    temperature: float
    before: float
    after: float
    texts: int


class Calibration(Callback):
    """Measures the calibration of a classifier and finds its temperature (Guo et al. 2017, arXiv 1706.04599).

    After every validation of a ``fit`` it sets ``module.temperature``, which every checkpoint holds, and logs
    ``val/ece`` and ``val/ece_calibrated``, the expected calibration error without and with it: the mean difference of
    confidence and share of right predictions over 15 bins of confidence. Where a text has several labels, every pair of
    text and label counts, with the label's probability. At the end it says both for the weights of the best checkpoint.

    The temperature is fitted to the validation set, so that ``val/ece_calibrated`` is a little too good. Predictions
    use it only where the module has ``calibrated_predictions``. Several ranks are measured together, the first of
    several evaluation sets alone. It does nothing for a regression.

    The module is a :class:`~lightning_modules.SequenceClassifier`, or has its ``problem_type``, and a validation step
    that returns ``outputs`` (logits) and ``labels``.

    Example::

        Trainer(callbacks=[Calibration()])
    """

    def __init__(self) -> None:
        self._outputs: list[Tensor] = []
        self._labels: list[Tensor] = []
        self._validations: BestValidation[CalibrationResult] = BestValidation()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._validations.start(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._outputs, self._labels = [], []

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        is_measured = trainer.state.fn == "fit" and not trainer.sanity_checking and dataloader_idx == 0
        if is_measured and getattr(pl_module, "problem_type", "regression") != "regression":
            self._outputs.append(outputs["outputs"].detach())
            self._labels.append(outputs["labels"])

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._outputs:
            return
        outputs, labels = (gathered(trainer, torch.cat(each)) for each in (self._outputs, self._labels))
        self._outputs, self._labels = [], []
        result = calibration(outputs.cpu(), labels.cpu())
        pl_module.temperature = result.temperature  # type: ignore[assignment]
        for name, value in (("val/ece", result.before), ("val/ece_calibrated", result.after)):
            pl_module.log(name, value, sync_dist=True)
        self._validations.add(trainer, result)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        chosen = self._validations.chosen(trainer)
        if chosen is not None:
            which, result = chosen
            rank_zero_info(
                f"calibration ({which}): expected calibration error {result.before:.4f}, {result.after:.4f} with "
                f"temperature {result.temperature:.3f}, on {result.texts} validation texts"
            )


def calibration(logits: Tensor, labels: Tensor) -> CalibrationResult:
    """Return the temperature of a classifier and its calibration error without and with it.

    Args:
        logits: (texts, labels).
        labels: Class numbers (texts,), or 0 and 1 (texts, labels) where a text has several.
    """
    logits = logits.double().nan_to_num()
    temperature = best_temperature(logits, labels)
    before, after = (_error(logits / each, labels) for each in (1.0, temperature))
    return CalibrationResult(temperature, before, after, len(labels))


def best_temperature(logits: Tensor, labels: Tensor) -> float:
    """Return the temperature that makes the labels most likely, from 0.05 to 20.

    The likelihood is concave in the inverse of the temperature: Newton's method, kept within bounds that close in.

    Args:
        logits: Float64 (texts, labels).
        labels: Class numbers (texts,), or 0 and 1 (texts, labels).
    """
    several = labels.dim() == 2
    target = labels.double() * logits if several else logits.gather(1, labels.unsqueeze(1)).squeeze(1)
    low, high, inverse = 1 / HIGHEST, 1 / LOWEST, 1.0
    for _ in range(60):
        if several:
            share = (logits * inverse).sigmoid()
            slope, curvature = share * logits - target, share * (1 - share) * logits**2
        else:
            share = (logits * inverse).softmax(dim=1)
            mean = (share * logits).sum(dim=1)
            slope, curvature = mean - target, (share * (logits - mean.unsqueeze(1)) ** 2).sum(dim=1)
        first, second = float(slope.mean()), float(curvature.mean())
        if first == 0.0:
            break
        low, high = (low, inverse) if first > 0 else (inverse, high)
        proposed = inverse - first / second if second > 0 else 0.0
        proposed = proposed if low < proposed < high else (low * high) ** 0.5
        if abs(proposed - inverse) <= 1e-7 * inverse:
            break
        inverse = proposed
    return min(max(1 / inverse, LOWEST), HIGHEST)


def expected_calibration_error(confidence: Tensor, is_right: Tensor, bins: int = BINS) -> float:
    """Return the mean difference of confidence and share of right predictions, over bins of equal width.

    Args:
        confidence: From 0 to 1, (predictions,).
        is_right: Whether each prediction is right, (predictions,).
        bins: Number of bins.
    """
    place = ((confidence * bins).ceil().long() - 1).clamp(0, bins - 1)
    difference = torch.bincount(place, (confidence - is_right.double()).double(), minlength=bins)
    return float(difference.abs().sum() / len(confidence))


def _error(logits: Tensor, labels: Tensor) -> float:
    if labels.dim() == 2:
        return expected_calibration_error(logits.sigmoid().flatten(), labels.flatten())
    confidence, predicted = logits.softmax(dim=1).max(dim=1)
    return expected_calibration_error(confidence, predicted == labels)


def gathered(trainer: Trainer, rows: Tensor) -> Tensor:
    """Return the rows of all ranks, in every rank; ranks may have different numbers of rows."""
    if trainer.world_size == 1:
        return rows
    sizes = trainer.strategy.all_gather(torch.tensor([len(rows)], device=rows.device)).flatten().tolist()
    padding = [0, 0] * (rows.dim() - 1) + [0, max(sizes) - len(rows)]
    padded = trainer.strategy.all_gather(pad(rows, padding))
    return torch.cat([of_rank[:size] for of_rank, size in zip(padded, sizes, strict=True)])
