"""AdamSLS against NumPy code written from the paper's equations."""

from __future__ import annotations

import numpy as np
import pytest

from optimizers import AdamSLS
from tests.optimizers.problem import TorchProblem
from tests.optimizers.reference import Adam, SoftmaxRegression, along, line_search_method
from tests.optimizers.same import assert_same_trace

STEPS = 30


@pytest.mark.parametrize("condition", ["gradient", "momentum"])
@pytest.mark.parametrize("amsgrad", [False, True])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_follows_the_equations(condition, amsgrad, weight_decay):
    problem = TorchProblem()
    optimizer = AdamSLS(
        problem.groups(),
        initial_step_size=1.0,
        c=0.3,
        growth=2.0,
        steps_per_epoch=6,
        amsgrad=amsgrad,
        weight_decay=weight_decay,
        condition=condition,
        bracket=None,
        max_trials=500,
        relative_tolerance=0.0,
    )
    expected = line_search_method(
        problem.reference,
        STEPS,
        Adam(problem.reference.start, amsgrad=amsgrad),
        initial=1.0,
        c=0.3,
        shrink=0.9,
        growth_per_step=2.0 ** (1 / 6),
        condition=condition,
        weight_decay=weight_decay,
    )
    assert_same_trace(problem.run(optimizer, STEPS), expected)
    assert max(expected.trials) > 3
    assert min(expected.trials) == 1


@pytest.mark.parametrize("condition", ["gradient", "momentum"])
def test_heavy_ball_follows_the_equations(condition):
    problem = TorchProblem()
    optimizer = AdamSLS(
        problem.groups(),
        momentum="heavy_ball",
        condition=condition,
        betas=(0.5, 0.99),
        steps_per_epoch=6,
        weight_decay=0.05,
        bracket=None,
        relative_tolerance=0.0,
    )
    expected = line_search_method(
        problem.reference,
        STEPS,
        Adam(problem.reference.start, beta1=0.5, beta2=0.99),
        initial=0.1,
        c=0.1,
        shrink=0.9,
        growth_per_step=2.0 ** (1 / 6),
        weight_decay=0.05,
        heavy_ball=0.5,
    )
    assert_same_trace(problem.run(optimizer, STEPS), expected)


@pytest.mark.parametrize("condition", ["gradient", "momentum"])
def test_a_group_with_a_heavy_ball_moves_so_among_groups_without(condition):
    problem = TorchProblem()
    groups = problem.groups()
    groups[1]["heavy_ball"] = 0.5
    optimizer = AdamSLS(groups, betas=(0.5, 0.99), condition=condition)
    trace = problem.run(optimizer, 5)
    point, inertia, base = problem.reference.start, 0.0, Adam(problem.reference.start, beta1=0.5, beta2=0.99)
    for step, (after, (eta, *_)) in enumerate(zip(trace.point, trace.step_size, strict=True)):
        base.update(problem.reference.gradient(point, step))
        expected = along(point, base.direction(), eta)
        inertia = 0.5 * inertia - eta * base.without_momentum()[1][0]
        expected[1] = [point[1][0] + inertia]
        for moved, unit in zip(after, expected, strict=True):
            for found, array in zip(moved, unit, strict=True):
                np.testing.assert_allclose(found, array, rtol=1e-9)
        point = after
    assert [group["searches"] for group in optimizer.param_groups] == [5, 5, 5]


@pytest.mark.parametrize("reset", ["keep", "restart"])
def test_reset_rules(reset):
    problem = TorchProblem(SoftmaxRegression(seed=3))
    options = {"initial_step_size": 0.5, "c": 0.5, "shrink": 0.7}
    optimizer = AdamSLS(problem.groups(), **options, reset=reset, bracket=None, relative_tolerance=0.0)
    expected = line_search_method(
        problem.reference, STEPS, Adam(problem.reference.start), initial=0.5, c=0.5, shrink=0.7,
        growth_per_step=1.0, reset=reset,
    )  # fmt: skip
    assert_same_trace(problem.run(optimizer, STEPS), expected)


def test_state_is_that_of_torch_adamw():
    problem = TorchProblem()
    optimizer = AdamSLS(problem.groups(), amsgrad=True)
    problem.run(optimizer, 2)
    state = optimizer.state[problem.parameters()[0]]
    assert set(state) == {"step", "exp_avg", "exp_avg_sq", "max_exp_avg_sq"}
    assert state["step"].item() == 2
