"""A step size for every unit, against NumPy code written from the paper's equations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from optimizers import (
    SGDSLS,
    AdamSLS,
    ArmijoSearch,
    EveryStep,
    LineSearchOptimizer,
    SaLSA,
    SearchResult,
    sgd,
)
from optimizers.units import UnitMemory, divide
from tests.optimizers.problem import TorchProblem
from tests.optimizers.reference import Adam, SoftmaxRegression, inner, per_unit
from tests.optimizers.same import assert_same_trace

STEPS = 25
EXACT = {"bracket": None, "relative_tolerance": 0.0, "max_trials": 500, "max_step_size": 1e6}


def names(searched):
    return [None if members is None else f"unit{members[0]}" for members in searched]


@pytest.mark.parametrize("rule", ["cycle", "all", "impact"])
@pytest.mark.parametrize("condition", ["gradient", "momentum"])
def test_adam_sls_follows_the_equations(rule, condition):
    problem = TorchProblem(SoftmaxRegression(seed=4))
    optimizer = AdamSLS(
        problem.groups(),
        c=0.3,
        growth=2.0,
        steps_per_epoch=6,
        betas=(0.3, 0.99),
        condition=condition,
        update_rule=rule,
        joint_steps=3,
        **EXACT,
    )
    expected = per_unit(
        problem.reference,
        STEPS,
        Adam(problem.reference.start, beta1=0.3, beta2=0.99),
        rule=rule,
        joint_steps=3,
        c=0.3,
        growth_per_step=2.0 ** (1 / 6),
        condition=condition,
    )
    actual = problem.run(optimizer, STEPS)
    assert_same_trace(actual, expected)
    assert actual.searched == names(expected.searched)
    assert len({tuple(sizes) for sizes in expected.step_size}) > STEPS // 2
    assert len(set(expected.step_size[-1])) == 3


@pytest.mark.parametrize("rule", ["cycle", "all"])
def test_salsa_smooths_every_unit_by_itself(rule):
    problem = TorchProblem(SoftmaxRegression(seed=4))
    optimizer = SaLSA(problem.groups(), update_rule=rule, joint_steps=2, reset="keep", cadence="always", **EXACT)
    expected = per_unit(
        problem.reference,
        STEPS,
        Adam(problem.reference.start),
        rule=rule,
        joint_steps=2,
        initial=1.0,
        c=0.5,
        shrink=0.8,
        beta=0.9,
    )
    assert_same_trace(problem.run(optimizer, STEPS), expected)


@pytest.mark.parametrize("rule", ["cycle", "all"])
def test_merging_joins_step_sizes_averages_and_searches(rule):
    problem = TorchProblem(SoftmaxRegression(seed=1))
    options = {"c": 0.5, "joint_steps": 2, "merge_threshold": 0.2}
    optimizer = AdamSLS(
        problem.groups(), initial_step_size=1.0, steps_per_epoch=6, update_rule=rule, **options, **EXACT
    )
    expected = per_unit(
        problem.reference,
        STEPS,
        Adam(problem.reference.start),
        rule=rule,
        initial=1.0,
        growth_per_step=2.0 ** (1 / 6),
        **options,
    )
    assert_same_trace(problem.run(optimizer, STEPS), expected)
    assert len(set(expected.step_size[8])) == 3
    assert len({group.get("unit", group["name"]) for group in optimizer.param_groups}) == 1


def test_merged_units_remember_the_sum_of_their_averages():
    problem = TorchProblem()
    optimizer = SaLSA(problem.groups(), update_rule="cycle", joint_steps=1, merge_threshold=1e-9)
    problem.run(optimizer, 4)
    before = [dict(group) for group in optimizer.param_groups]
    optimizer.merge_threshold = 1e9
    problem.run(optimizer, 1, first=4)
    record, after = optimizer.last_step, optimizer.param_groups
    searched = next(i for i, group in enumerate(before) if group["name"] == record.group)
    joined = next(i for i, group in enumerate(after) if i != searched and after[searched]["unit"] == group["name"])
    alone = 0.9 * before[searched]["average_slope"] + 0.1 * record.slope
    assert after[joined]["average_slope"] == pytest.approx(before[joined]["average_slope"] + alone)
    gained = 0.9 * before[searched]["average_decrease"] + 0.1 * (record.loss_before - record.loss_after)
    assert after[joined]["average_decrease"] == pytest.approx(before[joined]["average_decrease"] + gained)
    assert after[searched]["average_slope"] == after[joined]["average_slope"]
    assert searched < joined  # so that the unit's memory is read from the group that has joined
    for name in ("lr", *optimizer.cadence.memory()):
        assert after[searched][name] == after[joined][name] == before[joined][name]


def test_under_the_rule_all_units_move_and_decay_by_their_own_step_sizes():
    problem = TorchProblem()
    optimizer = SGDSLS(problem.groups(), initial_step_size=10.0, update_rule="all", joint_steps=0, weight_decay=0.1)
    trace = problem.run(optimizer, 1)
    start, (sizes,), (after,) = problem.reference.start, trace.step_size, trace.point
    gradient = problem.reference.gradient(start, 0)
    assert len(set(sizes)) == 3
    for i, eta in enumerate(sizes):
        for x, x0, g in zip(after[i], start[i], gradient[i], strict=True):
            np.testing.assert_allclose(x, x0 - eta * (g + 0.1 * x0), rtol=1e-9)
    assert optimizer.last_step.slope == pytest.approx(inner(gradient, gradient))


def test_the_largest_step_size_does_not_bound_the_factor_for_all_units():
    weights = [torch.nn.Parameter(torch.full((2,), value, dtype=torch.float64)) for value in (1.0, -2.0)]
    groups = [{"params": [weight]} for weight in weights]
    options = {"initial_step_size": 0.02, "max_step_size": 0.05, "growth": 4.0, "growth_per": "search"}
    optimizer = LineSearchOptimizer(
        groups, sgd, ArmijoSearch(), EveryStep(), update_rule="all", joint_steps=0, **options
    )

    def closure():
        optimizer.zero_grad()
        loss = sum((weight**2).sum() for weight in weights)
        loss.backward()
        return loss

    for step_size in (0.02, 0.05, 0.05):
        optimizer.step(closure)
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([step_size] * 2)
        assert optimizer.last_step.evaluations == 3


@pytest.mark.parametrize(("together", "counter"), [(1.0, "failures"), (math.inf, "skipped")])
def test_units_keep_their_step_sizes_where_no_factor_for_all_of_them_is_found(together, counter):
    weights = [torch.nn.Parameter(torch.zeros(1, dtype=torch.float64)) for _ in range(2)]
    groups = [{"params": [weight]} for weight in weights]
    options = {"initial_step_size": 8.0, "shrink": 0.5, "bracket": None, "max_trials": 3}
    optimizer = SGDSLS(groups, update_rule="all", joint_steps=0, **options)

    def evaluate():
        moved = [-weight.item() for weight in weights]
        return together if all(moved) else 1.0 if max(moved) == 8 else -sum(moved)

    for weight in weights:
        weight.grad = torch.ones_like(weight)
    optimizer.step(evaluate=evaluate, loss=0.0)
    record = optimizer.last_step
    assert (record.accepted, record.evaluations) == (False, 2 + 2 + 3)
    assert not any(weights)
    for group in optimizer.param_groups:
        assert (group["lr"], group["searches"], group[counter], group["trials"]) == (8.0, 0, 1, 2)


def test_a_joint_search_that_fails_counts_for_every_unit():
    problem = TorchProblem()
    optimizer = SGDSLS(problem.groups(), update_rule="cycle", joint_steps=2, bracket=None, max_trials=2)
    for searched, failures in [(None, [1, 1, 1]), (None, [2, 2, 2]), ("unit0", [3, 2, 2])]:
        closure, _ = problem.callables(optimizer, 0)
        optimizer.step(closure, evaluate=lambda: 100.0)
        assert optimizer.last_step.group == searched
        assert [group["failures"] for group in optimizer.param_groups] == failures
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.9**3, 0.9**2, 0.9**2])


def test_the_first_search_starts_from_the_largest_step_size_of_its_groups():
    problem = TorchProblem()
    groups = [{**group, "lr": lr} for group, lr in zip(problem.groups(), [0.1, 0.4, 0.2], strict=True)]
    optimizer = SGDSLS(groups)
    closure, _ = problem.callables(optimizer, 0)
    optimizer.step(closure, evaluate=lambda: -100.0)
    assert [group["lr"] for group in optimizer.param_groups] == [0.4] * 3


@pytest.mark.parametrize(("began", "second_trial"), [(1, 0.2), (2, 0.9)])
def test_a_search_with_a_new_unit_comes_down_as_a_first_search_does(began, second_trial):
    weights = [torch.nn.Parameter(torch.zeros(1, dtype=torch.float64)) for _ in range(2)]
    optimizer = SGDSLS(
        [{"params": [weight]} for weight in weights], update_rule="cycle", reset="keep", shrink=0.9, max_trials=2
    )
    tried = []

    def evaluate():
        tried.append(before[0] - weights[0].item())
        return -1.0 if len(tried) == 1 else 1.0

    for moving in (began, 2):
        before = [weight.item() for weight in weights]
        for weight in weights[:moving]:
            weight.grad = torch.ones_like(weight)
        optimizer.step(evaluate=evaluate, loss=0.0)
    assert tried == pytest.approx([1.0, 1.0, second_trial])


def test_groups_of_one_unit_share_their_step_size():
    problem = TorchProblem()
    groups = problem.groups()
    groups[0]["unit"] = groups[1]["unit"] = "body"
    optimizer = SGDSLS(groups, update_rule="cycle", joint_steps=1)
    trace = problem.run(optimizer, 20)
    assert all(sizes[0] == sizes[1] for sizes in trace.step_size)
    assert any(sizes[1] != sizes[2] for sizes in trace.step_size)
    assert set(trace.searched[1:]) == {"body", "unit2"}


def test_under_the_rule_joint_units_do_not_count():
    problem = TorchProblem()
    optimizer = AdamSLS(problem.groups())
    trace = problem.run(optimizer, 10)
    assert all(len(set(sizes)) == 1 for sizes in trace.step_size)
    assert set(trace.searched) == {None}


def test_a_unit_waits_for_its_first_search():
    problem = TorchProblem()
    optimizer = AdamSLS(problem.groups(), update_rule="cycle", joint_steps=0)
    trace = problem.run(optimizer, 3)
    assert trace.searched == ["unit0", "unit1", "unit2"]
    start = problem.reference.start
    assert (trace.point[0][1][0] == start[1][0]).all()
    assert (trace.point[1][2][0] == start[2][0]).all()
    assert (trace.point[2][2][0] != start[2][0]).any()
    # Its averages know the gradients that came meanwhile.
    assert {optimizer.state[p]["step"].item() for p in problem.parameters()} == {3}


@pytest.mark.parametrize("rule", ["cycle", "impact"])
def test_a_unit_that_finds_no_step_size_lets_the_others_search(rule):
    weight, idle = (torch.nn.Parameter(torch.ones(2, dtype=torch.float64)) for _ in range(2))
    groups = [{"params": [weight], "name": "moving"}, {"params": [idle], "name": "idle"}]
    optimizer = AdamSLS(groups, update_rule=rule, joint_steps=0)

    def closure():
        optimizer.zero_grad()
        loss = ((weight - 3) ** 2).sum() + (0 * idle).sum()
        loss.backward()
        return loss

    for _ in range(20):
        optimizer.step(closure)
    moving, idle_group = optimizer.param_groups
    assert moving["searches"] >= 9
    assert idle_group["failures"] >= 9


def test_reports_say_what_the_groups_remember():
    problem = TorchProblem()
    optimizer = AdamSLS(problem.groups(), update_rule="cycle", joint_steps=1)
    problem.run(optimizer, 9)
    reports = optimizer.unit_reports()
    assert list(reports) == ["unit0", "unit1", "unit2"]
    for group, report in zip(optimizer.param_groups, reports.values(), strict=True):
        assert (report.step_size, report.slope) == (group["lr"], group["slope"])
        assert (report.smoothed_slope, report.smoothed_decrease) == (group["average_slope"], group["average_decrease"])
        assert (report.searches, report.failures, report.skipped) == (group["searches"], group["failures"], 0)
        assert (report.trials, report.backtracks) == (group["trials"], group["backtracks"])
        assert report.search_interval is None
    assert list(SaLSA(problem.groups()).unit_reports()) == ["model"]
    assert SaLSA(problem.groups()).unit_reports()["model"].search_interval == 1


def test_groups_without_a_name_are_units_named_after_their_place():
    groups = [{"name": "first"}, {}, {"unit": "shared", "name": "third"}, {"unit": "shared"}, {"unit": 0}, {"unit": 0}]
    units = divide([{**vars(UnitMemory()), "lr": 1.0, **group} for group in groups], "all")
    assert [(unit.name, len(unit.groups)) for unit in units] == [("first", 1), ("group 1", 1), ("shared", 2), ("0", 2)]


@pytest.mark.parametrize(
    ("kept", "step_size", "settled"),
    [(0.5, 0.5, True), (0.1, 0.1, False), (2.0, 0.5, True)],  # as it was, the smallest tried, never a larger one
)
def test_a_step_size_below_all_that_were_tried_was_found_by_no_search(kept, step_size, settled):
    (unit,) = divide([{**vars(UnitMemory(settled=True)), "lr": 0.5}], "all")
    unit.remember_failure(SearchResult(kept, 1.0, False, 4, 4, 1.0, (1.0,), "rejected"))
    assert (unit.step_size, unit.memory.settled) == (step_size, settled)
    assert (unit.memory.failures, unit.memory.skipped, unit.memory.trials) == (1, 0, 4)
    unit.remember_failure(SearchResult(kept, 1.0, False, 2, 2, 1.0, (1.0,), "not finite"))
    assert (unit.memory.failures, unit.memory.skipped, unit.memory.trials) == (1, 1, 6)
