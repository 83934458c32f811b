"""The loss of a task against its formula in NumPy, and what its options refuse."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight

from lightning_modules import LossOptions, ModelError, SequenceClassifier
from lightning_modules.losses import TaskLoss, check_problem_type, task_loss

NAMES = ("a", "b", "c")


def log_softmax(logits: np.ndarray) -> np.ndarray:
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


@settings(max_examples=30)
@given(seed=st.integers(0, 1000), smoothing=st.sampled_from([0.0, 0.1, 0.5]), rows=st.integers(1, 9))
def test_weighted_cross_entropy_is_its_formula(seed: int, smoothing: float, rows: int) -> None:
    random = np.random.default_rng(seed)
    logits, labels, weights = random.normal(size=(rows, 3)), random.integers(3, size=rows), random.uniform(0.1, 5, 3)
    loss = task_loss(
        "single_label_classification", LossOptions(dict(zip(NAMES, weights, strict=True)), smoothing), NAMES
    )
    own = -log_softmax(logits)[np.arange(rows), labels] * weights[labels]
    spread = (-log_softmax(logits) * weights).sum(axis=1) / 3
    expected = ((1 - smoothing) * own + smoothing * spread).sum() / weights[labels].sum()
    assert float(loss(torch.tensor(logits).float(), torch.tensor(labels))) == pytest.approx(expected, rel=1e-4)
    assert float(loss.total_weight(torch.tensor(labels))) == pytest.approx(weights[labels].sum(), rel=1e-5)


@settings(max_examples=30)
@given(seed=st.integers(0, 1000), smoothing=st.sampled_from([0.0, 0.2]), rows=st.integers(1, 9))
def test_binary_cross_entropy_over_labels_is_its_formula(seed: int, smoothing: float, rows: int) -> None:
    random = np.random.default_rng(seed)
    logits, labels, weights = (
        random.normal(size=(rows, 3)),
        random.integers(2, size=(rows, 3)),
        random.uniform(0.1, 5, 3),
    )
    loss = task_loss(
        "multi_label_classification", LossOptions(dict(zip(NAMES, weights, strict=True)), smoothing), NAMES
    )
    chance = 1 / (1 + np.exp(-logits))
    targets = labels * (1 - smoothing) + smoothing / 2
    expected = -(weights * targets * np.log(chance) + (1 - targets) * np.log(1 - chance)).mean()
    assert float(loss(torch.tensor(logits).float(), torch.tensor(labels))) == pytest.approx(expected, rel=1e-4)
    assert loss.total_weight(torch.tensor(labels)) == rows


def test_regression_is_the_mean_squared_error_of_standardised_targets() -> None:
    statistics = SimpleNamespace(counts=[], rows=4, mean=5.0, std=2.5)
    loss = task_loss("regression", LossOptions(), (), statistics)
    scores, targets = torch.tensor([0.5, -1.0, 2.0]), torch.tensor([6.0, 3.0, 9.0])
    assert float(loss(scores, targets)) == pytest.approx(float(((scores - (targets - 5) / 2.5) ** 2).mean()))
    assert loss.in_user_units(scores).tolist() == pytest.approx([6.25, 2.5, 10.0])


@pytest.mark.parametrize("std", [0.0, float("nan")])
def test_targets_that_are_all_alike_are_not_divided_by_zero(std: float) -> None:
    loss = task_loss("regression", LossOptions(), (), {"mean": 3.0, "std": std})
    assert (loss.target_mean, loss.target_std) == (3.0, 1.0)


def test_a_loss_without_options_is_torchs_own_to_the_last_bit() -> None:
    logits, labels, scores = torch.randn(7, 3), torch.randint(3, (7,)), torch.randn(7)
    plain = TaskLoss("single_label_classification")
    assert torch.equal(plain(logits, labels), torch.nn.functional.cross_entropy(logits, labels))
    assert plain.total_weight(labels) == 7
    regression = TaskLoss("regression")
    assert torch.equal(regression(scores, logits[:, 0]), torch.nn.functional.mse_loss(scores, logits[:, 0]))
    assert regression.in_user_units(scores) is scores


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_the_loss_is_single_precision_under_autocast(precision: torch.dtype) -> None:
    labels = torch.tensor([0, 1])
    for problem_type in ("single_label_classification", "multi_label_classification"):
        targets = labels if problem_type.startswith("single") else torch.eye(2)
        with torch.autocast("cpu", precision):
            found = task_loss(problem_type, LossOptions({"a": 2.0}), ("a", "b"))(torch.eye(2), targets)  # type: ignore
        assert found.dtype == torch.float32


def test_balanced_weights_are_scikit_learns() -> None:
    labels = np.repeat([0, 1, 2], [70, 20, 10])
    statistics = {"counts": [70, 20, 10], "rows": 100}
    weights = LossOptions("balanced").weights("single_label_classification", NAMES, statistics)
    assert weights is not None
    assert weights.numpy() == pytest.approx(compute_class_weight("balanced", classes=np.arange(3), y=labels))


def test_balanced_weights_of_several_labels_are_negatives_over_positives() -> None:
    statistics = SimpleNamespace(counts=[25, 0, 100], rows=100)
    weights = LossOptions("balanced").weights("multi_label_classification", NAMES, statistics)
    assert weights is not None
    assert weights.tolist() == [3.0, 1.0, 1.0]  # no positives, no negatives: nothing to balance


def test_a_class_without_rows_and_a_name_left_out_have_weight_one() -> None:
    balanced = LossOptions("balanced").weights("single_label_classification", NAMES, {"counts": [9, 0, 3], "rows": 12})
    assert balanced is not None
    assert balanced.tolist() == pytest.approx([12 / 27, 1.0, 12 / 9])
    named = LossOptions({"b": 4.0}).weights("single_label_classification", NAMES, None)
    assert named is not None
    assert named.tolist() == [1.0, 4.0, 1.0]


def test_a_name_that_is_a_number_needs_no_quotes() -> None:
    weights = LossOptions({2: 4.0}).weights("single_label_classification", ("1", "2"), None)  # type: ignore[dict-item]
    assert weights is not None
    assert weights.tolist() == [1.0, 4.0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label_smoothing": 1.0}, "label_smoothing: 1.0 is not allowed; from 0 to below 1"),
        ({"class_weights": {"a": 0.0}}, "class_weights: a: 0.0 is not allowed; a number above 0"),
        ({"class_weights": {"a": float("inf")}}, "class_weights: a: inf is not allowed"),
        ({"class_weights": "even"}, "class_weights: 'even' is not allowed; balanced, none, or a weight by label"),
    ],
)
def test_an_option_out_of_range_is_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        LossOptions(**options)


def test_options_that_do_not_fit_the_labels_are_one_line() -> None:
    with pytest.raises(ModelError, match=r"there is no label 'True'; .* write names that YAML reads as .* quotes$"):
        LossOptions({True: 2.0}).check_labels("single_label_classification", ["no", "yes"])  # type: ignore[dict-item]
    with pytest.raises(ModelError, match=r"there is no label 'spam'; the labels are a, b, c$"):
        SequenceClassifier(num_labels=3, label_names=NAMES, pretrained=False, loss=LossOptions({"spam": 2.0}))
    for options in (LossOptions(label_smoothing=0.1), LossOptions("balanced")):
        with pytest.raises(ModelError, match="class_weights and label_smoothing are for classification"):
            SequenceClassifier(num_labels=1, pretrained=False, loss=options)


@pytest.mark.parametrize(
    ("problem_type", "num_labels"),
    [("regression", 2), ("single_label_classification", 1), ("multi_label_classification", 1)],
)
def test_a_kind_of_task_has_its_number_of_labels(problem_type: Any, num_labels: int) -> None:
    with pytest.raises(ModelError, match=f"{problem_type} does not go with num_labels {num_labels}; regression has 1"):
        check_problem_type(problem_type, num_labels)


def test_an_unknown_kind_of_task_is_one_line() -> None:
    with pytest.raises(
        ModelError, match="problem_type: 'ranking' is not allowed; one of single_label_classification, "
    ):
        check_problem_type("ranking", 2)  # type: ignore[arg-type]


@settings(max_examples=30)
@given(
    seed=st.integers(0, 1000), smoothing=st.sampled_from([0.0, 0.2]), rows=st.integers(1, 30), weighted=st.booleans()
)
def test_the_best_constant_is_a_minimum_of_the_loss(seed: int, smoothing: float, rows: int, weighted: bool) -> None:
    random = np.random.default_rng(seed)
    weights = dict(zip(NAMES, random.uniform(0.1, 5, 3), strict=True))
    options = LossOptions(weights if weighted else "none", smoothing)
    loss = task_loss("multi_label_classification", options, NAMES)
    labels = torch.tensor(random.integers(2, size=(rows, 3)))
    once_more = torch.cat([labels, torch.zeros(1, 3), torch.ones(1, 3)])
    constant = loss.best_constant({"counts": labels.sum(0).tolist(), "rows": rows}).requires_grad_()
    (slope,) = torch.autograd.grad(loss(constant.expand(len(once_more), 3), once_more), constant)
    assert slope.abs().max() < 1e-6
