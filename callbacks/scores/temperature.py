"""The temperature that calibrates a classifier's probabilities, and their calibration error."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

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


def expected_calibration_error(confidence: Tensor, is_right: Tensor) -> float:
    """Return the mean difference of confidence and share of right predictions, over bins of equal width.

    Args:
        confidence: From 0 to 1, (predictions,).
        is_right: Whether each prediction is right, (predictions,).
    """
    place = ((confidence * BINS).ceil().long() - 1).clamp(0, BINS - 1)
    difference = torch.bincount(place, (confidence - is_right.double()).double(), minlength=BINS)
    return float(difference.abs().sum() / len(confidence))


def _error(logits: Tensor, labels: Tensor) -> float:
    if labels.dim() == 2:
        return expected_calibration_error(logits.sigmoid().flatten(), labels.flatten())
    confidence, predicted = logits.softmax(dim=1).max(dim=1)
    return expected_calibration_error(confidence, predicted == labels)
