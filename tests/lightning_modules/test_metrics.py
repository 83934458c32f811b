"""GLUE's metrics against scikit-learn and SciPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn import metrics as reference

from lightning_modules.errors import ModelError
from lightning_modules.metrics import EvaluationMetrics, build_metric


@pytest.mark.parametrize("num_labels", [2, 3])
def test_classification_scores(num_labels: int) -> None:
    labels = torch.randint(num_labels, (50,))
    logits = torch.randn(50, num_labels) + torch.nn.functional.one_hot(labels, num_labels)
    metrics = EvaluationMetrics(["accuracy", "f1", "matthews"], num_labels)
    for part in torch.arange(50).split(16):
        metrics.update(torch.tensor(float(len(part))), logits[part], labels[part])
    predicted = logits.argmax(-1)
    found = {name: float(metric.compute()) for name, metric in metrics.named_metrics().items()}
    assert found["accuracy"] == pytest.approx(reference.accuracy_score(labels, predicted))
    assert found["matthews"] == pytest.approx(reference.matthews_corrcoef(labels, predicted), abs=1e-6)
    average = "binary" if num_labels == 2 else "macro"
    assert found["f1"] == pytest.approx(reference.f1_score(labels, predicted, average=average))
    # 16, 16, 16 and 2 examples with the losses 16, 16, 16 and 2.
    assert found["loss"] == pytest.approx((3 * 16 * 16 + 2 * 2) / 50)


def test_regression_scores() -> None:
    labels = torch.rand(40) * 5
    scores = labels + torch.randn(40)
    metrics = EvaluationMetrics(None, 1)
    metrics.update(torch.tensor(0.0), scores, labels)
    found = {name: float(metric.compute()) for name, metric in metrics.named_metrics().items()}
    assert found["pearson"] == pytest.approx(np.corrcoef(scores, labels)[0, 1], abs=1e-5)
    assert found["spearman"] == pytest.approx(stats.spearmanr(scores, labels).statistic, abs=1e-5)


@pytest.mark.parametrize(("name", "num_labels"), [("pearson", 2), ("accuracy", 1), ("bleu", 2)])
def test_a_metric_that_does_not_fit_is_refused(name: str, num_labels: int) -> None:
    with pytest.raises(ModelError, match=f"metrics: '{name}' does not score .* allowed: "):
        build_metric(name, num_labels)


CORNERS = {
    "one class predicted": ([1] * 7 + [0] * 3, [1] * 10),
    "one class present, one error": ([0] * 100, [1] + [0] * 99),
    "one class present and predicted": ([1] * 5, [1] * 5),
    "all wrong": ([0, 1, 0, 1], [1, 0, 1, 0]),
    "most of one class": ([1] * 721 + [0] * 322, [1] * 1043),
}


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.UndefinedMetricWarning", "ignore::UserWarning")
@pytest.mark.parametrize("num_labels", [2, 3])
@pytest.mark.parametrize("corner", CORNERS)
def test_corner_cases_have_scikit_learns_value(corner: str, num_labels: int) -> None:
    labels, predicted = CORNERS[corner]
    metrics = EvaluationMetrics(["accuracy", "f1", "matthews"], num_labels)
    logits = torch.nn.functional.one_hot(torch.tensor(predicted), num_labels).float()
    metrics.update(torch.tensor(0.0), logits, torch.tensor(labels))
    found = {name: float(metric.compute()) for name, metric in metrics.named_metrics().items()}
    average = "binary" if num_labels == 2 else "macro"
    assert found["accuracy"] == pytest.approx(reference.accuracy_score(labels, predicted))
    assert found["matthews"] == pytest.approx(reference.matthews_corrcoef(labels, predicted), abs=1e-6)
    assert found["f1"] == pytest.approx(reference.f1_score(labels, predicted, average=average, zero_division=0))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("constant", ["scores", "targets"])
def test_a_correlation_with_a_constant_is_zero(constant: str) -> None:
    varied, flat = torch.tensor([1.0, 2.0, 4.0]), torch.full((3,), 2.5)
    metrics = EvaluationMetrics(None, 1)
    metrics.update(torch.tensor(0.0), *((flat, varied) if constant == "scores" else (varied, flat)))
    found = {name: float(metric.compute()) for name, metric in metrics.named_metrics().items()}
    assert found["pearson"] == found["spearman"] == 0.0


def test_ties_have_scipys_rank_correlation() -> None:
    scores, targets = torch.tensor([1.0, 2.0, 2.0, 5.0]), torch.tensor([1.0, 2.0, 3.0, 3.0])
    metrics = EvaluationMetrics(None, 1)
    metrics.update(torch.tensor(0.0), scores, targets)
    spearman = metrics.named_metrics()["spearman"].compute()
    assert float(spearman) == pytest.approx(stats.spearmanr(scores, targets).statistic, abs=1e-6)
