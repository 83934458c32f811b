"""ValidationScorer: the standard error of a difference in a metric, and what it lets pass in the last line search."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor

from callbacks.interpolation.weight_line import Trial, choose
from callbacks.scores.validation_scorer import ValidationScorer, ValidationScores
from lightning_modules import SequenceClassifier
from tests.tiny_models import save_tiny_bert

TEXTS = 250


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> ValidationScorer:
    module = SequenceClassifier(str(save_tiny_bert(tmp_path_factory.mktemp("model"))), optimizer=torch.optim.SGD)
    return ValidationScorer(Trainer(accelerator="cpu", logger=False), module, 0.0)


def outputs_with(labels: Tensor, wrong: int, margin: float) -> Tensor:
    """Return logits that are wrong for the first texts, and right by a margin for the others."""
    predicted = torch.where(torch.arange(len(labels)) < wrong, 1 - labels, labels)
    return margin * torch.nn.functional.one_hot(predicted, 2).float()


def scores_of(scorer: ValidationScorer, outputs: Tensor, labels: Tensor) -> ValidationScores:
    values = scorer.module.score_rows(outputs, labels)
    return ValidationScores(values, values, values, outputs, labels)


def test_the_error_is_that_of_the_paired_difference(scorer: ValidationScorer) -> None:
    labels = torch.randint(2, (TEXTS,), generator=torch.Generator().manual_seed(0))
    shuffled = torch.randperm(TEXTS, generator=torch.Generator().manual_seed(1))
    first, other = (
        scores_of(scorer, outputs_with(labels, wrong, 1.0)[shuffled], labels[shuffled]) for wrong in (40, 60)
    )
    found = scorer.paired_error(first, other, "accuracy")
    # The mean of 250 paired differences, 20 of which are -1 and the others 0.
    differences = np.repeat([-1.0, 0.0], [20, TEXTS - 20])
    assert found == pytest.approx(differences.std(ddof=1) / np.sqrt(TEXTS), rel=0.3)
    assert scorer.paired_error(first, first, "accuracy") == 0.0
    # Of the accuracy alone, as if the two were measured on different texts, it is twice as large.
    assert found < 0.6 * np.sqrt(2) * np.sqrt(0.2 * 0.8 / TEXTS)


def test_with_a_group_for_each_row_the_error_is_exact(scorer: ValidationScorer) -> None:
    labels = torch.zeros(20, dtype=torch.long)
    first, other = (scores_of(scorer, outputs_with(labels, wrong, 1.0), labels) for wrong in (2, 5))
    differences = np.repeat([-1.0, 0.0], [3, 17])
    expected = differences.std(ddof=1) / np.sqrt(20)
    assert scorer.paired_error(first, other, "accuracy") == pytest.approx(expected, rel=1e-6)
    one = [scores._replace(outputs=scores.outputs[:1], labels=labels[:1]) for scores in (first, other)]
    assert scorer.paired_error(*one, "accuracy") == 0.0


@pytest.mark.parametrize(("more_wrong", "taken"), [(0, True), (1, True), (5, False), (25, False)])
def test_one_text_decides_nothing_and_many_do(scorer: ValidationScorer, more_wrong: int, taken: bool) -> None:
    labels = torch.randint(2, (TEXTS,), generator=torch.Generator().manual_seed(0))
    as_trained = scores_of(scorer, outputs_with(labels, 50, 6.0), labels)
    nearer = scores_of(scorer, outputs_with(labels, 50 + more_wrong, 1.5), labels)
    assert nearer.choosing["loss"] < as_trained.choosing["loss"]
    trials = [Trial({"model": 1.0}, as_trained), Trial({"model": 0.8}, nearer)]
    assert (choose(trials, "accuracy", "max", scorer.paired_error).alphas["model"] == 0.8) == taken
    # Where the validation step returns no rows, nothing is known of the error.
    trials = [Trial(alphas, scores._replace(outputs=None, labels=None)) for alphas, scores in trials]
    found = choose(trials, "accuracy", "max", scorer.paired_error)
    assert (found.alphas["model"] == 0.8) == (more_wrong == 0)
