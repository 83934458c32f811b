"""What holds for every line search optimizer, on whatever parameters there are."""

from __future__ import annotations

import copy
import math
import warnings
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from optimizers import SGDSLS, AdamSLS, LineSearchOptimizer, ParabolicAdam, SaLSA, SearchResult, sgd
from optimizers.group_update import GroupUpdate
from optimizers.scalars import read_together
from tests.optimizers.all_optimizers import LINE_SEARCHES
from tests.optimizers.problem import TorchProblem

METHODS = LINE_SEARCHES | {"parabolic": lambda params, **options: ParabolicAdam(params, total_steps=30, **options)}

PLAIN = ["sgd", "adam", "adam, momentum", "adam, heavy ball", "adam, cycle"]
DTYPES = [torch.float64, torch.float32, torch.bfloat16]
every_method = pytest.mark.parametrize("method", METHODS)


class Mixture:
    """Parameters of every kind in one loss: a few used, used twice, scalar, empty, frozen, and without a gradient."""

    def __init__(self, kinds, dtype, seed):
        generator = torch.Generator().manual_seed(seed)

        def parameter(*shape, requires_grad=True):
            values = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
            return nn.Parameter(values, requires_grad=requires_grad)

        self.used, self.still = [parameter(3, 2)], []
        for kind in kinds:
            if kind == "used":
                self.used.append(parameter(2, 3))
            elif kind == "scalar":
                self.used.append(parameter())
            elif kind == "empty":
                self.used.append(parameter(0, 4))
            elif kind == "tied":
                self.used.append(self.used[0])
            elif kind == "frozen":
                self.still.append(parameter(2, requires_grad=False))
            elif kind == "no gradient":
                self.still.append(parameter(2, 2))
        self.targets = [torch.randn(p.shape, generator=generator, dtype=torch.float64).to(dtype) for p in self.used]
        self.scales = [10.0 ** (i % 3 - 1) for i in range(len(self.used))]

    def groups(self):
        params = list(dict.fromkeys([*self.used, *self.still]))
        return [{"params": params[i : i + 2], "name": f"group{i}"} for i in range(0, len(params), 2)]

    def loss(self):
        terms = zip(self.used, self.targets, self.scales, strict=True)
        total = sum(scale * (p - target).double().pow(2).sum() for p, target, scale in terms)
        return total + sum(p.double().sin().sum() for p in self.used)


def callables(problem, optimizer):
    def closure():
        optimizer.zero_grad()
        loss = problem.loss()
        loss.backward()
        return loss

    return closure, problem.loss


kinds = st.lists(st.sampled_from(["used", "scalar", "empty", "tied", "frozen", "no gradient"]), max_size=6)


@every_method
@settings(max_examples=8)
@given(kinds=kinds, dtype=st.sampled_from(DTYPES), seed=st.integers(0, 10**6))
def test_any_mix_of_parameters(method, kinds, dtype, seed):
    problem = Mixture(kinds, dtype, seed)
    optimizer = METHODS[method](problem.groups())
    still = [p.detach().clone() for p in problem.still]
    for _ in range(6):
        closure, evaluate = callables(problem, optimizer)
        before = [p.detach().clone() for p in problem.used]
        loss = optimizer.step(closure, evaluate=evaluate)
        record = optimizer.last_step
        assert record.loss_before == loss.item()
        if not record.accepted:
            assert all(torch.equal(p, b) for p, b in zip(problem.used, before, strict=True)) or record.group
        elif method in PLAIN:
            c = optimizer.param_groups[0]["c"]
            rounding = 1e-6 * abs(record.loss_before)
            assert record.loss_before - record.loss_after + 2 * rounding >= c * record.step_size * record.slope
        assert all(p.isfinite().all() for p in problem.used)
    assert any(group["searches"] for group in optimizer.param_groups)
    assert all(torch.equal(p, s) for p, s in zip(problem.still, still, strict=True))
    assert not any(optimizer.state.get(p) for p in problem.still)


@every_method
@pytest.mark.parametrize("rise", [1.0, math.nan, math.inf])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_failed_search_leaves_the_parameters_as_they_were(method, rise, dtype):
    problem = Mixture(["used", "scalar"], dtype, seed=0)
    optimizer = METHODS[method](problem.groups(), max_trials=4)
    before = [p.detach().clone() for p in problem.used]
    for _ in range(3):
        closure, _ = callables(problem, optimizer)
        start = problem.loss().detach()
        optimizer.step(closure, evaluate=lambda start=start: start + rise)
        assert not optimizer.last_step.accepted
        assert all(torch.equal(p, b) for p, b in zip(problem.used, before, strict=True))
    counter = "failures" if math.isfinite(rise) else "skipped"
    assert sum(group[counter] for group in optimizer.param_groups) >= 3
    assert not any(group["searches"] for group in optimizer.param_groups)


@every_method
@pytest.mark.parametrize("bad", ["loss", "gradient"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_step_that_is_not_finite_is_skipped_and_counted(method, bad, value):
    problem, twin = TorchProblem(), TorchProblem()
    optimizer, other = METHODS[method](problem.groups()), METHODS[method](twin.groups())
    problem.run(optimizer, 12)
    twin.run(other, 12)
    before = [p.detach().clone() for p in problem.parameters()]

    def closure():
        optimizer.zero_grad()
        loss = problem.loss(0)
        loss.backward()
        if bad == "gradient":
            problem.parameters()[1].grad[0] = value
            return loss
        return loss * value

    optimizer.step(closure, evaluate=lambda: problem.loss(0))
    assert not optimizer.last_step.accepted
    assert optimizer.last_step.evaluations == 0
    assert all(torch.equal(p, b) for p, b in zip(problem.parameters(), before, strict=True))
    assert all(group["skipped"] == 1 for group in optimizer.param_groups)
    for group in optimizer.param_groups:
        for counter in {"steps_since_search", "steps"} & set(group):
            group[counter] -= 1
    assert problem.run(optimizer, 5, first=12).loss == twin.run(other, 5, first=12).loss


@pytest.mark.parametrize("method", ["adam", "adam, cycle", "salsa", "sgd"])
def test_the_last_memory_of_a_failed_search_is_where_to_go_on(method):
    problem = TorchProblem()
    optimizer = METHODS[method](problem.groups(), max_trials=3, bracket=None, initial_step_size=1.0)
    shrink = optimizer.param_groups[0]["shrink"]
    closure, _ = problem.callables(optimizer, 0)
    optimizer.step(closure, evaluate=lambda: torch.tensor(100.0, dtype=torch.float64))
    assert optimizer.param_groups[0]["lr"] == pytest.approx(shrink**2)
    assert optimizer.last_step.step_size == optimizer.param_groups[0]["lr"]


@pytest.mark.parametrize("make", [SGDSLS, partial(AdamSLS, condition="momentum")], ids=["sgd", "adam"])
def test_a_step_ends_at_the_accepted_trial_where_a_later_one_was_rejected(make):
    problem, after_rejections = TorchProblem(), 0
    optimizer = make(problem.parameters(), initial_step_size=10.0, reset="restart")
    for step in range(6):
        losses = []

        def evaluate(step=step, losses=losses):
            losses.append(problem.loss(step).item())
            return losses[-1]

        optimizer.step(problem.callables(optimizer, step)[0], evaluate=evaluate)
        accepted = optimizer.last_step.loss_after
        assert problem.loss(step).item() == accepted
        after_rejections += losses[-1] != accepted
    assert after_rejections


def test_only_a_step_size_that_a_search_found_grows():
    weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = SGDSLS([weight], shrink=0.5, growth=2.0, steps_per_epoch=1, bracket=None, max_trials=3)

    def step(falls):
        before, tried = weight.item(), []

        def evaluate():
            tried.append(before - weight.item())
            return -tried[-1] if falls else 1.0

        weight.grad = torch.ones_like(weight)
        optimizer.step(evaluate=evaluate, loss=0.0)
        return tried

    assert [step(falls) for falls in (True, False, True, True)] == [[1.0], [2.0, 1.0, 0.5], [0.5], [1.0]]


def test_learning_rate_factors_scale_the_direction():
    problem = TorchProblem()
    groups = problem.groups()
    groups[0]["lr_factor"], groups[1]["lr_factor"] = 0.5, 0.0
    optimizer = SGDSLS(groups, weight_decay=0.1)
    start = [p.detach().clone() for p in problem.parameters()]
    closure, evaluate = problem.callables(optimizer, 0)
    optimizer.step(closure, evaluate=evaluate)
    eta = optimizer.last_step.step_size
    moved = [s - p.detach() for p, s in zip(problem.parameters(), start, strict=True)]
    for m, p, s, factor in zip(moved, problem.parameters(), start, [0.5, 0.5, 0.0, 1.0], strict=True):
        torch.testing.assert_close(m, eta * factor * (p.grad + 0.1 * s))
    grads = [p.grad for p in problem.parameters()]
    slope = 0.5 * sum(g.square().sum() for g in grads[:2]) + grads[3].square().sum()
    assert optimizer.last_step.slope == pytest.approx(slope.item())


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("c", 0.0), ("c", 1.0), ("shrink", 1.0), ("growth", 0.5), ("initial_step_size", 0.0), ("weight_decay", -1.0),
        ("bracket", 1.5), ("max_trials", 0), ("max_step_size", 1e-9), ("relative_tolerance", -1.0),
        ("steps_per_epoch", 0), ("joint_steps", -1), ("merge_threshold", 0.0), ("reset", "often"),
        ("condition", "both"), ("update_rule", "layers"), ("momentum", "nesterov"), ("betas", (0.9, 1.0)),
        ("eps", -1.0),
    ],
)  # fmt: skip
def test_arguments_out_of_range_are_refused_in_one_line(option, value):
    with pytest.raises(ValueError, match=r"\w") as error:
        AdamSLS([nn.Parameter(torch.ones(2))], **{option: value})
    assert option in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("growth", 0.5), ("initial_step_size", 0.0), ("weight_decay", -1.0), ("anchor_decay", -1.0),
        ("heavy_ball", 1.0), ("lr", 0.0), ("lr", -1.0), ("lr_factor", -1.0), ("max_step_size", 1e-9),
    ],
)  # fmt: skip
def test_options_of_a_group_out_of_range_are_refused_in_one_line(option, value):
    optimizer = AdamSLS([nn.Parameter(torch.ones(2))])
    with pytest.raises(ValueError, match=f"{option}.* is not allowed; "):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2))], option: value})
    assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize("make", [SGDSLS, AdamSLS, SaLSA])
def test_an_option_that_nothing_has_is_an_error_that_names_it(make):
    with pytest.raises(TypeError, match="brackt"):
        make([nn.Parameter(torch.ones(2))], brackt=0.1)


def test_options_of_the_search_and_of_the_cadence_may_differ_from_group_to_group():
    problem = TorchProblem()
    groups = problem.groups()
    groups[0] |= {"max_trials": 1, "c": 0.999}
    groups[1] |= {"max_interval": 1}
    optimizer = SaLSA(groups, update_rule="all", joint_steps=0, growth=1.0)
    problem.run(optimizer, 30)
    first, second, third = optimizer.param_groups
    assert first["failures"] > 0
    assert first["trials"] == first["searches"] + first["failures"]
    assert second["searches"] + second["failures"] > third["searches"] + third["failures"]


@dataclass(frozen=True)
class Halve:
    """A search of one's own: accept the first lower loss."""

    lower_by: float = 0.0

    def __call__(self, loss_at, loss, slope, start, past=None):
        (before, *slopes), trials = read_together(loss, slope), 0
        while float(trial := loss_at(start)) > before - self.lower_by and trials < 20:
            start, trials = start / 2, trials + 1
        return SearchResult(start, float(trial), trials < 20, trials + 1, trials, before, tuple(slopes))


@dataclass(frozen=True)
class EverySecond:
    """A cadence of one's own."""

    def memory(self):
        return {"total_waited": 0}

    def interval(self, unit):
        return 2

    def after_search(self, unit, waited):
        return {"total_waited": unit["total_waited"] + waited}


def test_a_search_and_a_cadence_of_ones_own():
    problem = TorchProblem()
    optimizer = LineSearchOptimizer(
        problem.groups(), sgd, Halve(), EverySecond(), initial_step_size=8.0, growth=2.0, lower_by=0.01
    )
    trace = problem.run(optimizer, 20)
    assert [trials > 0 for trials in trace.trials] == [True, False] * 10
    assert sum(trace.loss[-6:]) < 0.95 * sum(trace.loss[:6])
    assert all(group["lower_by"] == 0.01 and group["total_waited"] == 19 for group in optimizer.param_groups)
    assert optimizer.unit_reports()["model"].search_interval == 2


def test_options_of_one_name_are_refused():
    options = {"initial_step_size": 1.0, "growth": 1.0, "direction_options": {"lower_by": 1.0}}
    with pytest.raises(ValueError, match=r"search, cadence or direction: \['lower_by'\] is not allowed; named unlike"):
        LineSearchOptimizer(TorchProblem().groups(), sgd, Halve(), EverySecond(), **options)


def test_an_error_between_two_groups_of_the_first_trial_leaves_no_trace(monkeypatch):
    move_to, calls = GroupUpdate.move_to, [0]

    def second_fails(*arguments):
        calls[0] += 1
        if calls[0] == 2:
            raise RuntimeError("out of memory")
        move_to(*arguments)

    monkeypatch.setattr(GroupUpdate, "move_to", second_fails)
    problem = TorchProblem()
    before = [p.detach().clone() for p in problem.parameters()]
    optimizer = AdamSLS(problem.groups())
    closure, evaluate = problem.callables(optimizer, 0)
    with pytest.raises(RuntimeError, match="out of memory"):
        optimizer.step(closure, evaluate=evaluate)
    assert all(torch.equal(a, b) for a, b in zip(before, problem.parameters(), strict=True))


def test_a_state_without_a_newer_option_takes_its_default():
    problem = TorchProblem()
    optimizer = SaLSA(problem.groups())
    problem.run(optimizer, 12)
    state = optimizer.state_dict()
    for group in state["param_groups"]:
        del group["patience"], group["max_interval"]
    fresh = SaLSA(problem.groups())
    fresh.load_state_dict(state)
    assert fresh.param_groups[0]["patience"] == 3
    problem.run(fresh, 5, first=12)


def test_sparse_gradients_are_refused():
    embedding = nn.Embedding(5, 2, sparse=True)
    optimizer = SGDSLS(embedding.parameters())

    def closure():
        loss = embedding(torch.tensor([1])).sum()
        loss.backward()
        return loss

    with pytest.raises(ValueError, match="sparse"):
        optimizer.step(closure)


def test_a_step_needs_a_way_to_measure_trials():
    optimizer = AdamSLS([nn.Parameter(torch.ones(2))])
    with pytest.raises(ValueError, match="evaluate"):
        optimizer.step()
    with pytest.raises(ValueError, match="no loss"):
        optimizer.step(lambda: None)


def test_searches_that_fail_in_a_row_are_told_once_and_by_a_copy_again():
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = SGDSLS([weight], max_trials=1)

    def warnings_of(each):
        def closure():
            each.zero_grad()
            parameter = each.param_groups[0]["params"][0]
            parameter.grad = -torch.ones_like(parameter)  # against the gradient: every step goes up
            return parameter.detach().sum()

        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in range(25):
                each.step(closure)
        return [str(warning.message) for warning in caught]

    (told,) = warnings_of(optimizer)
    assert told.startswith("SGDSLS: 10 searches in a row found no step size that lowers the loss")
    assert warnings_of(copy.deepcopy(optimizer)) == [told]


@pytest.mark.parametrize("step_size", [1e-3, 1.0])
@pytest.mark.parametrize(
    "make",
    [
        SGDSLS,
        partial(SaLSA, direction=sgd),
        partial(AdamSLS, momentum="heavy_ball"),
        partial(AdamSLS, condition="momentum"),
    ],
    ids=["sgd", "salsa along the gradient", "heavy ball", "along the step itself"],
)
def test_an_accepted_step_is_not_moved_to_again(make, step_size: float, monkeypatch: pytest.MonkeyPatch) -> None:
    moves: list[float] = []
    move_to = GroupUpdate.move_to

    def counted(update: GroupUpdate, size: float, *rest: bool) -> None:
        moves.append(size)
        move_to(update, size, *rest)

    monkeypatch.setattr(GroupUpdate, "move_to", counted)
    weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    optimizer = make([weight], initial_step_size=step_size, bracket=None)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = 10 * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure, evaluate=lambda: 10 * weight.detach().square().sum())
    assert optimizer.last_step is not None
    assert optimizer.last_step.accepted
    assert len(moves) == optimizer.last_step.evaluations
    assert moves[-1] == optimizer.last_step.step_size


def test_a_step_copies_the_parameters_once(monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[str] = []
    save = GroupUpdate.save

    def counted(update: GroupUpdate) -> None:
        saved.append(update.group["name"])
        save(update)

    monkeypatch.setattr(GroupUpdate, "save", counted)
    problem = TorchProblem()
    problem.run(SGDSLS(problem.groups(), update_rule="all", joint_steps=0), 1)
    assert saved == ["unit0", "unit1", "unit2"]
