"""SaLSA against NumPy code written from the paper's equations."""

from __future__ import annotations

import math

import pytest
import torch

from optimizers import Drift, Ratio, SaLSA, lion, sgd
from tests.optimizers.problem import TorchProblem
from tests.optimizers.reference import Adam, Gradient, Lion, SoftmaxRegression, salsa
from tests.optimizers.same import assert_same_trace

EXACT = {"bracket": None, "relative_tolerance": 0.0, "max_trials": 500, "max_step_size": 1e6}


@pytest.mark.parametrize("condition", ["gradient", "momentum"])
@pytest.mark.parametrize("weight_decay", [0.0, 0.05])
@pytest.mark.parametrize("cadence", ["drift", "ratio", "always"])
def test_follows_the_equations(condition, weight_decay, cadence):
    problem = TorchProblem()
    optimizer = SaLSA(problem.groups(), weight_decay=weight_decay, condition=condition, cadence=cadence, **EXACT)
    expected = salsa(
        problem.reference,
        60,
        Adam(problem.reference.start),
        condition=condition,
        weight_decay=weight_decay,
        cadence=cadence,
    )
    assert_same_trace(problem.run(optimizer, 60), expected)
    assert max(expected.trials) > 2
    assert (min(expected.trials) == 0) is (cadence != "always")


@pytest.mark.parametrize(
    ("direction", "base", "betas"), [(sgd, Gradient, (0.9, 0.999)), (lion, Lion, (0.9, 0.99))], ids=["sgd", "lion"]
)
def test_other_directions_follow_the_equations(direction, base, betas):
    problem = TorchProblem(SoftmaxRegression(seed=5))
    optimizer = SaLSA(problem.groups(), direction=direction, betas=betas, c=0.3, **EXACT)
    expected = salsa(problem.reference, 40, base(problem.reference.start), c=0.3)
    assert_same_trace(problem.run(optimizer, 40), expected)


def test_a_constant_step_size_is_searched_every_tenth_step():
    problem = TorchProblem()
    # A step size that may neither grow nor shrink stays what it is.
    optimizer = SaLSA(problem.groups(), initial_step_size=1e-3, c=0.01, growth=1.0)
    trials = problem.run(optimizer, 61).trials
    assert trials[:10] == [1] * 10
    assert [step for step, number in enumerate(trials) if number][10:] == [19, 29, 39, 49, 59]


def test_a_changing_step_size_is_searched_more_often():
    def searches(growth):
        problem = TorchProblem()
        optimizer = SaLSA(problem.groups(), initial_step_size=1e-4, c=0.01, growth=growth)
        return sum(number > 0 for number in problem.run(optimizer, 30).trials)

    assert searches(growth=1.0) == 12
    assert searches(growth=1.5) > 15


def test_steps_between_searches_are_those_of_adamw():
    problem, twin = TorchProblem(), TorchProblem()
    optimizer = SaLSA(problem.parameters(), initial_step_size=1e-3, c=0.01, growth=1.0, weight_decay=0.1)
    adamw = torch.optim.AdamW(twin.parameters(), lr=1e-3, weight_decay=0.1)
    problem.run(optimizer, 30)
    for step in range(30):
        adamw.step(twin.callables(adamw, step)[0])
    for a, b in zip(problem.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_a_slow_fall_is_followed_without_a_search_in_every_step():
    def searches(cadence):
        unit = {"searches": 0, "shrink": 0.8, **cadence.memory()}
        waited = 0
        for step in range(300):
            waited += 1
            if waited >= cadence.interval(unit):
                unit |= {"lr": math.exp(-0.005 * step), "searches": unit["searches"] + 1}
                unit |= cadence.after_search(unit, waited)
                waited = 0
        return unit["searches"]

    # Half a percent a step: a factor of 0.95 in ten steps, less than the 0.8 that a search resolves.
    assert searches(Drift()) == 10 + 29
    assert searches(Ratio()) > 70


def test_an_unknown_cadence_is_one_line():
    with pytest.raises(ValueError, match="cadence: 'often' is not allowed; one of drift, ratio, always"):
        SaLSA(TorchProblem().groups(), cadence="often")
