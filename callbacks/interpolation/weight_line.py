"""The straight line between two sets of weights of a model, and the search for the best place on it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from callbacks.scores.validation_scorer import ValidationScores
from optimizers import search_interval

# The name of the place on the line that holds for all weights whose part has none of its own.
WHOLE = "model"
_STRIDE, _TOLERANCE = 0.2, 0.02
_STRIDE_OF_PART = 0.1
# Standard errors by which a metric may be worse. A single text is exactly one; groups of unequal size round it.
_ERRORS = 1.05


class Trial(NamedTuple):
    """A place on the line, and how a model does there.

    Args:
        alphas: By the name of a part, from 0 (its first end) to 1 (its last one); ``model`` for parts without one.
        scores: Of the weights there.
    """

    alphas: dict[str, float]
    scores: ValidationScores


class WeightLine:
    r"""The line :math:`\theta(\alpha) = \theta_0 + \alpha \, (\theta_1 - \theta_0)` between two sets of weights.

    It is computed in float32 at least, and rounded where it is put in place. Weights that are alike at both ends, that
    the first end does not have, or that are integers stay out of it.

    Args:
        live: The weights of the model, by name; changed in place.
        first: Some or all weights at :math:`\alpha = 0`, on the CPU.
        last: All weights at :math:`\alpha = 1`; may be `live` itself.
        parts: The part of each weight that may have an :math:`\alpha` of its own, by the weight's name.

    Example::

        line = WeightLine(model.state_dict(), pretrained, trained)
        line.put({"model": 0.8})
    """

    def __init__(
        self,
        live: Mapping[str, Tensor],
        first: Mapping[str, Tensor],
        last: Mapping[str, Tensor],
        parts: Mapping[str, str] | None = None,
    ) -> None:
        self.parts = dict(parts or {})
        self._live = live
        self._ends: dict[str, tuple[Tensor, Tensor]] = {}
        for name, value in live.items():
            if name not in first or not value.is_floating_point():
                continue
            if not torch.equal(first[name].to(value), last[name].to(value)):
                exact = torch.promote_types(value.dtype, torch.float32)
                self._ends[name] = first[name].to(exact), last[name].detach().cpu().to(exact, copy=True)

    @property
    def has_length(self) -> bool:
        """Whether any weight differs between the ends."""
        return bool(self._ends)

    @torch.no_grad()
    def put(self, alphas: Mapping[str, float]) -> None:
        """Put the weights at a place on the line."""
        for name, (first, last) in self._ends.items():
            weight = alphas.get(self.parts.get(name, WHOLE), alphas[WHOLE])
            self._live[name].copy_(torch.lerp(first, last, weight))

    def search(self, score: Callable[[], ValidationScores]) -> list[Trial]:
        """Search for the lowest loss, for all weights together from the last end on, then for each part in turn.

        Args:
            score: Returns the scores of the model as it is, ``loss`` among them.

        Returns:
            All trials, the last end the first of them. The weights are left where the last trial was.
        """
        trials: list[Trial] = []

        def loss_at(alphas: dict[str, float]) -> float:
            self.put(alphas)
            trials.append(Trial(alphas, score()))
            return trials[-1].scores.choosing["loss"]

        best = search_interval(lambda alpha: loss_at({WHOLE: alpha}), 1.0, _STRIDE, 0.0, 1.0, _TOLERANCE)
        if math.isfinite(best.value):
            names, loss = sorted({self.parts[name] for name in self._ends if name in self.parts}), best.value
            alphas = {WHOLE: best.position} | dict.fromkeys(names, best.position)

            def loss_with(name: str, alpha: float) -> float:
                return loss_at(alphas | {name: alpha})

            for name in names:
                of_part, start = partial(loss_with, name), alphas[name]
                found = search_interval(of_part, start, _STRIDE_OF_PART, 0.0, 1.0, _TOLERANCE, 4, start_value=loss)
                alphas[name], loss = found.position, found.value
        return trials


def choose(
    trials: list[Trial], metric: str, mode: str, error: Callable[[ValidationScores, ValidationScores, str], float]
) -> Trial:
    """Return the trial of the lowest loss among those where a metric is not worse than in the first one.

    Args:
        trials: At least one.
        metric: The metric's name.
        mode: Whether less of it is better (``min``) or more (``max``).
        error: Returns the standard error of its difference between two scores; so much worse counts as not worse.
    """
    first = trials[0].scores
    if metric not in first.choosing:
        rank_zero_warn(
            f"PretrainedInterpolation: the validation step logs no {metric}, by which one selects: the weights stay as "
            "trained"
        )
        return trials[0]
    sign = 1.0 if mode == "min" else -1.0
    finite = [trial for trial in trials if math.isfinite(trial.scores.choosing["loss"])]
    for trial in sorted(finite, key=lambda each: each.scores.choosing["loss"]):
        worse = sign * (trial.scores.choosing[metric] - first.choosing[metric])
        if worse <= 0 or worse <= _ERRORS * error(first, trial.scores, metric):
            return trial
    return trials[0]
