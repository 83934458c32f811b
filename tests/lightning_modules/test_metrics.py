"""Metrics against scikit-learn and SciPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as reference

from lightning_modules.errors import ModelError
from lightning_modules.metrics import METRICS, EvaluationMetrics, build_metric, check_metrics


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


def test_one_score_far_from_all_others_leaves_a_correlation() -> None:
    generator = torch.Generator().manual_seed(0)
    targets = torch.cat([torch.randn(3000, generator=generator), torch.tensor([500.0])])
    scores = targets + 9 * torch.randn(3001, generator=generator)
    metrics = EvaluationMetrics(["pearson"], 1)
    for rows in zip(scores.split(64), targets.split(64), strict=True):
        metrics.update(torch.tensor(0.0), *rows)
    expected = stats.pearsonr(scores.double(), targets.double()).statistic
    assert values(metrics)["pearson"] == pytest.approx(expected, abs=1e-5)
    assert expected > 0.5


def test_ties_have_scipys_rank_correlation() -> None:
    scores, targets = torch.tensor([1.0, 2.0, 2.0, 5.0]), torch.tensor([1.0, 2.0, 3.0, 3.0])
    metrics = EvaluationMetrics(None, 1)
    metrics.update(torch.tensor(0.0), scores, targets)
    spearman = metrics.named_metrics()["spearman"].compute()
    assert float(spearman) == pytest.approx(stats.spearmanr(scores, targets).statistic, abs=1e-6)


def values(metrics: EvaluationMetrics) -> dict[str, float]:
    return {name: float(metric.compute()) for name, metric in metrics.named_metrics().items()}


SINGLE = tuple(METRICS["single_label_classification"])
SEVERAL = tuple(METRICS["multi_label_classification"])


def average_area(truth: np.ndarray, scores: np.ndarray) -> float:
    """scikit-learn's area of each label that has one, averaged."""
    defined = [label for label in range(truth.shape[1]) if 0 < truth[:, label].sum() < len(truth)]
    return float(np.mean([reference.roc_auc_score(truth[:, i], scores[:, i]) for i in defined])) if defined else 0.5


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.UndefinedMetricWarning", "ignore::UserWarning")
@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), num_labels=st.integers(2, 4), count=st.integers(1, 30), ties=st.booleans())
def test_every_metric_of_classes_is_scikit_learns(seed: int, num_labels: int, count: int, ties: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    # Few rows: classes without rows and without predictions are among the cases.
    labels = torch.randint(num_labels, (count,), generator=generator)
    logits = torch.randn(count, num_labels, generator=generator)
    logits = logits.round() + torch.arange(num_labels) / 100 if ties else logits
    metrics = EvaluationMetrics(SINGLE, num_labels)
    for part in torch.arange(count).split(7):
        metrics.update(torch.tensor(0.0), logits[part], labels[part])
    found, predicted, scores = values(metrics), logits.argmax(-1), logits.double().softmax(-1).numpy()
    assert found["accuracy"] == pytest.approx(reference.accuracy_score(labels, predicted))
    assert found["matthews"] == pytest.approx(reference.matthews_corrcoef(labels, predicted), abs=1e-6)
    for average in ("macro", "micro"):
        expected = reference.f1_score(labels, predicted, average=average, zero_division=0)
        assert found[f"{average}_f1"] == pytest.approx(expected)
    truth = np.eye(num_labels)[labels.numpy()]
    if num_labels == 2:
        truth, scores = truth[:, 1:], scores[:, 1:]
    assert found["auroc"] == pytest.approx(average_area(truth, scores), abs=1e-6)
    precision = reference.average_precision_score(truth, scores)
    assert found["average_precision"] == pytest.approx(precision, abs=1e-6)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.UndefinedMetricWarning", "ignore::UserWarning")
@settings(max_examples=25)
@given(
    seed=st.integers(0, 10**6),
    num_labels=st.integers(2, 4),
    count=st.integers(2, 30),
    share=st.floats(0, 1),
    size=st.sampled_from((1, 7)),
)
def test_every_metric_of_several_labels_is_scikit_learns(
    seed: int, num_labels: int, count: int, share: float, size: int
) -> None:
    """torchmetrics 1.9.0 takes a batch of logits between 0 and 1 for probabilities; batches of one row often are so."""
    generator = torch.Generator().manual_seed(seed)
    labels = (torch.rand(count, num_labels, generator=generator) < share).float()
    logits = torch.randn(count, num_labels, generator=generator)
    metrics = EvaluationMetrics(SEVERAL, num_labels, "multi_label_classification")
    for part in torch.arange(count).split(size):
        metrics.update(torch.tensor(0.0), logits[part], labels[part])
    found, predicted, truth, scores = values(metrics), (logits > 0).long(), labels.numpy(), logits.sigmoid().numpy()
    assert found["accuracy"] == pytest.approx(reference.accuracy_score(truth, predicted))
    for average in ("macro", "micro"):
        expected = reference.f1_score(truth, predicted, average=average, zero_division=0)
        assert found[f"{average}_f1"] == pytest.approx(expected)
    assert found["auroc"] == pytest.approx(average_area(truth, scores), abs=1e-6)
    assert found["average_precision"] == pytest.approx(reference.average_precision_score(truth, scores), abs=1e-6)


@pytest.mark.parametrize("problem_type", ["single_label_classification", "multi_label_classification"])
@pytest.mark.parametrize("num_labels", [2, 3])
def test_texts_that_a_model_is_sure_of_keep_their_order(problem_type: Any, num_labels: int) -> None:
    """In float32 their probabilities are all 1."""
    of_last, is_last = torch.tensor([18.0, 17.5, 22.0, 20.0]), torch.tensor([0, 0, 1, 1])
    logits = torch.nn.functional.pad(of_last[:, None], (num_labels - 1, 0))
    labels = is_last * (num_labels - 1)
    if problem_type == "multi_label_classification":
        labels = torch.nn.functional.pad(is_last[:, None], (num_labels - 1, 0))
    metrics = EvaluationMetrics(["auroc"], num_labels, problem_type)
    metrics.update(torch.tensor(0.0), logits, labels)
    assert values(metrics)["auroc"] == 1.0


@pytest.mark.parametrize("truth", [torch.zeros(5, 3), torch.ones(5, 3)])
def test_labels_that_no_text_has_or_all_have_give_finite_metrics(truth: torch.Tensor) -> None:
    metrics = EvaluationMetrics(SEVERAL, 3, "multi_label_classification")
    metrics.update(torch.tensor(0.0), torch.randn(5, 3), truth)
    found = values(metrics)
    assert all(np.isfinite(value) for value in found.values())
    assert found["auroc"] == 0.5
    assert found["average_precision"] == float(truth.mean())


def test_errors_of_a_regression_are_in_the_targets_units() -> None:
    targets, scores = torch.tensor([100.0, 200.0, 400.0]), torch.tensor([110.0, 170.0, 400.0])
    metrics = EvaluationMetrics(tuple(METRICS["regression"]), 1)
    for part in ([0, 1], [2]):
        metrics.update(torch.tensor(0.0), scores[part], targets[part])
    found = values(metrics)
    assert found["mae"] == pytest.approx(reference.mean_absolute_error(targets, scores))
    assert found["rmse"] == pytest.approx(reference.root_mean_squared_error(targets, scores))


def test_a_weighted_loss_is_averaged_by_weight() -> None:
    metrics = EvaluationMetrics(["accuracy"], 2)
    metrics.update(torch.tensor(1.0), torch.eye(2), torch.tensor([0, 1]), weight=torch.tensor(6.0))
    metrics.update(torch.tensor(4.0), torch.eye(2), torch.tensor([0, 1]), weight=3.0)
    assert values(metrics)["loss"] == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("name", "problem_type", "num_labels"),
    [("matthews", "multi_label_classification", 3), ("rmse", "single_label_classification", 2)],
)
def test_the_allowed_metrics_of_the_kind_are_named(name: str, problem_type: Any, num_labels: int) -> None:
    kind = problem_type.replace("_", "-").replace("-classification", " classification")
    with pytest.raises(ModelError, match=f"metrics: '{name}' does not score a {kind}; allowed: .*, average_precision$"):
        check_metrics(["accuracy", name], problem_type)


def test_the_loss_of_an_evaluation_with_a_batch_that_is_nan_is_nan() -> None:
    """torchmetrics 1.9.0 leaves values that are NaN out of a MeanMetric by default: 0.5, NaN, 0.7 gave 0.6."""
    metrics = EvaluationMetrics(["accuracy"], 2)
    for loss in (0.5, float("nan"), 0.7):
        metrics.update(torch.tensor(loss), torch.randn(4, 2), torch.tensor([0, 1, 0, 1]))
    assert metrics.loss.compute().isnan()
    metrics.reset()
    metrics.update(torch.tensor(0.5), torch.randn(4, 2), torch.tensor([0, 1, 0, 1]))
    assert metrics.loss.compute() == 0.5


def test_a_rank_correlation_is_made_without_a_warning(recwarn: pytest.WarningsRecorder) -> None:
    """torchmetrics 1.9.0 warns of each SpearmanCorrCoef that it keeps all scores."""
    build_metric("spearman", 1)
    assert not recwarn.list
