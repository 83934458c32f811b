"""SGDSLS against NumPy code written from the paper's equations."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from optimizers import SGDSLS
from tests.optimizers.problem import TorchProblem
from tests.optimizers.reference import Gradient, SoftmaxRegression, line_search_method
from tests.optimizers.same import assert_same_trace


@pytest.mark.parametrize("momentum", [0.0, 0.6])
@pytest.mark.parametrize("weight_decay", [0.0, 0.05])
def test_follows_the_equations(momentum, weight_decay):
    problem = TorchProblem()
    optimizer = SGDSLS(
        problem.groups(),
        initial_step_size=10.0,
        c=0.4,
        steps_per_epoch=6,
        momentum=momentum,
        weight_decay=weight_decay,
        bracket=None,
        relative_tolerance=0.0,
        max_step_size=1e6,
    )
    expected = line_search_method(
        problem.reference,
        30,
        Gradient(problem.reference.start),
        initial=10.0,
        c=0.4,
        shrink=0.9,
        growth_per_step=2.0 ** (1 / 6),
        weight_decay=weight_decay,
        heavy_ball=momentum,
    )
    assert_same_trace(problem.run(optimizer, 30), expected)
    assert max(expected.trials) > 3


def test_plain_method_keeps_no_state():
    problem = TorchProblem()
    optimizer = SGDSLS(problem.parameters())
    problem.run(optimizer, 3)
    assert not any(optimizer.state.values())


def test_defaults_descend_monotonically_on_one_batch():
    problem = TorchProblem(SoftmaxRegression(batches=1))
    losses = problem.run(SGDSLS(problem.parameters()), 90).loss
    assert all(after < before for before, after in pairwise(losses))
    assert losses[-1] < 0.3 * losses[0]


def test_a_failed_search_stops_the_heavy_ball():
    problem = TorchProblem()
    optimizer = SGDSLS(problem.parameters(), momentum=0.9)
    problem.run(optimizer, 3)
    closure, _ = problem.callables(optimizer, 3)
    optimizer.step(closure, evaluate=lambda: problem.loss(3) + 1)
    assert not optimizer.last_step.accepted
    before = [weight.detach().clone() for weight in problem.parameters()]
    (step_size,) = problem.run(optimizer, 1, first=4).step_size
    for weight, start in zip(problem.parameters(), before, strict=True):
        torch.testing.assert_close(weight.detach(), start - step_size[0] * weight.grad)
