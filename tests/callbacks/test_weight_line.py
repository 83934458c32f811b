"""The line between two sets of weights, and the search on it, on losses whose minimum is known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from callbacks.interpolation.weight_line import WeightLine
from callbacks.scores.validation_scorer import ValidationScores

PARTS = {"low.weight": "low", "high.weight": "high"}


def ends() -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    live = {"low.weight": torch.ones(1), "high.weight": torch.ones(1), "head.weight": torch.ones(1)}
    first = {name: torch.zeros(1) for name in live}
    return live, first, {name: value.clone() for name, value in live.items()}


def test_a_part_with_a_place_of_its_own_is_put_there_and_all_others_where_the_model_is() -> None:
    live, first, last = ends()
    WeightLine(live, first, last, PARTS).put({"model": 0.75, "low": 0.25})
    assert [float(value) for value in live.values()] == [0.25, 0.75, 0.75]


@pytest.mark.parametrize(("low", "high"), [(0.2, 0.9), (0.6, 0.6), (1.5, 0.3)])
def test_the_search_goes_to_the_minimum_of_each_part_within_the_line(low: float, high: float) -> None:
    live, first, last = ends()
    line = WeightLine(live, first, last, PARTS)
    minima = {"low.weight": low, "high.weight": high, "head.weight": (low + high) / 2}

    def score() -> ValidationScores:
        loss = sum((float(live[name]) - minimum) ** 2 for name, minimum in minima.items())
        return ValidationScores({"loss": loss}, {}, {})

    trials = line.search(score)
    assert trials[0].alphas == {"model": 1.0}
    assert all(0 <= alpha <= 1 for trial in trials for alpha in trial.alphas.values())
    best = min(trials, key=lambda trial: trial.scores.choosing["loss"]).alphas
    low_at, high_at = (best.get(part, best["model"]) for part in ("low", "high"))
    # Four trials for each part come within a stride of its minimum.
    assert low_at == pytest.approx(min(low, 1.0), abs=0.1)
    assert high_at == pytest.approx(high, abs=0.1)


def test_nothing_is_searched_part_by_part_where_no_loss_is_finite() -> None:
    line = WeightLine(*ends(), PARTS)
    trials = line.search(lambda: ValidationScores({"loss": math.nan}, {}, {}))
    assert all(set(trial.alphas) == {"model"} for trial in trials)
