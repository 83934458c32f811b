"""Gradientless descent against NumPy code written from its algorithms, and what it promises whatever the loss."""

from __future__ import annotations

import io
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LinearLR

from optimizers import GLD
from optimizers.candidate_losses import candidate_losses
from optimizers.gld_candidates import candidate_units
from optimizers.perturbation import derive_seed
from tests.optimizers.gradient_free_reference import gld, gld_with_options, loss_of
from tests.optimizers.problem import TorchProblem
from tests.optimizers.task import Task, same_bits

SEED = 5


def noise(step, unit, leaf, candidate, shape):
    generator = torch.Generator().manual_seed(derive_seed(SEED, step, unit, leaf, candidate))
    return torch.randn(shape, generator=generator).double().numpy()


def run(problem, optimizer, steps, first=0, schedule=None):
    points = []
    for step in range(first, first + steps):
        closure, evaluate = problem.callables(optimizer, step)
        before, start = problem.evaluations, [p.detach().clone() for p in problem.parameters()]
        loss = optimizer.step(closure, evaluate=evaluate)
        record = optimizer.last_step
        moved = sum(not torch.equal(p, old) for p, old in zip(problem.parameters(), start, strict=True))
        assert record.backtracks == record.evaluations - 1 - moved
        assert loss.item() == record.loss_before
        assert record.evaluations == problem.evaluations - before
        assert record.loss_after <= record.loss_before or any(g["norm_weight"] for g in optimizer.param_groups)
        if schedule is not None:
            schedule.step()
        points.append([p.detach().clone().numpy() for p in problem.parameters()])
    return points


def assert_same_points(actual, expected):
    assert len(actual) == len(expected)
    for one, other in zip(actual, expected, strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("copy_limit", [0, 2**22])
@pytest.mark.parametrize("norm_weight", [0.0, 0.05])
@pytest.mark.parametrize("success_rate", [None, 0.4])
def test_follows_the_algorithm(copy_limit, norm_weight, success_rate):
    problem = TorchProblem()
    start = [p.detach().numpy().copy() for p in problem.parameters()]
    optimizer = GLD(
        problem.parameters(),
        radius=0.3,
        num_radii=3,
        norm_weight=norm_weight,
        success_rate=success_rate,
        seed=SEED,
        copy_limit=copy_limit,
    )
    schedule = LinearLR(optimizer, start_factor=1.0, end_factor=0.1, total_iters=30)
    expected = gld(
        loss_of(problem.reference),
        start,
        30,
        noise,
        radius=lambda step: 0.3 * (1 - 0.9 * step / 30),
        num_radii=3,
        norm_weight=norm_weight,
        success_rate=success_rate,
    )
    assert_same_points(run(problem, optimizer, 30, schedule=schedule), expected)
    moved = sum(not np.array_equal(a, b) for p, q in itertools.pairwise(expected) for a, b in zip(p, q, strict=True))
    assert 20 < moved < 29 * 4


@pytest.mark.parametrize("norm_weight", [0.0, 0.2])
@pytest.mark.parametrize(("levels", "width"), [(1, 2), (1, 4), (2, 2), (3, 2)])
def test_lookahead_follows_the_algorithm(levels, width, norm_weight):
    problem = TorchProblem()
    start = [p.detach().numpy().copy() for p in problem.parameters()]
    optimizer = GLD(
        problem.parameters(),
        radius=0.3,
        num_radii=3,
        lookahead_levels=levels,
        lookahead_width=width,
        norm_weight=norm_weight,
        seed=SEED,
    )
    expected = gld_with_options(
        loss_of(problem.reference),
        start,
        20,
        noise,
        radius=lambda _: 0.3,
        num_radii=3,
        levels=levels,
        width=width,
        norm_weight=norm_weight,
    )
    assert_same_points(run(problem, optimizer, 20), expected)


def test_a_lookahead_computes_the_loss_where_it_is_once():
    task = Task()
    optimizer = GLD(task.model.parameters(), num_radii=3, lookahead_width=2)
    for leaves in (1, 2, 2):
        optimizer.step(evaluate=task.loss)
        assert optimizer.last_step.evaluations == 1 + 4 * (leaves * 3 + leaves - 1)


@pytest.mark.parametrize("levels", [1, 3])
def test_lookahead_of_width_one_is_the_plain_method(levels):
    plain, looking = TorchProblem(), TorchProblem()
    without = run(plain, GLD(plain.parameters(), radius=0.2), 15)
    optimizer = GLD(looking.parameters(), radius=0.2, lookahead_levels=levels, lookahead_width=1)
    for one, other in zip(without, run(looking, optimizer, 15), strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
    reference = gld_with_options(
        loss_of(TorchProblem().reference),
        [p.detach().numpy().copy() for p in TorchProblem().parameters()],
        15,
        lambda *place: (
            torch.randn(place[-1], generator=torch.Generator().manual_seed(derive_seed(0, *place[:-1])))
            .double()
            .numpy()
        ),
        radius=lambda _: 0.2,
        num_radii=5,
        levels=levels,
        width=1,
    )
    assert_same_points(without, reference)


any_settings = st.fixed_dictionaries(
    {
        "radius": st.floats(0, 5),
        "num_radii": st.integers(1, 4),
        "shrink": st.sampled_from([0.5, 1.0]),
        "rounds": st.integers(1, 2),
        "units": st.sampled_from(["tensor", "group"]),
        "units_per_round": st.sampled_from([None, 1, 3]),
        "success_rate": st.sampled_from([None, 0.2]),
        "selection": st.sampled_from(["all", "random", "largest", "fisher"]),
        "subset_size": st.sampled_from([1, 7, 0.5]),
        "reselect_every": st.integers(1, 3),
        "lookahead_levels": st.integers(1, 2),
        "lookahead_width": st.integers(1, 2),
        "norm_weight": st.sampled_from([0.0, 0.1]),
        "candidates": st.sampled_from(["one_at_a_time", "at_once"]),
        "copy_limit": st.sampled_from([0, 2**22]),
        "seed": st.integers(0, 2**40),
    }
)


@settings(max_examples=60)
@given(any_settings)
def test_the_objective_on_a_fixed_batch_never_rises(chosen):
    task = Task()
    optimizer = GLD(task.groups(), **chosen)

    def objective():
        norms = sum(p.detach().double().norm() for p in task.model.parameters())
        return task.loss().item() + chosen["norm_weight"] * float(norms)

    objectives = [objective()]
    for _ in range(6):
        many = candidate_losses(task.model, task.loss)
        optimizer.step(task.closure, evaluate=task.loss, evaluate_many=many)
        objectives.append(objective())
        assert all(p.grad is None for p in task.model.parameters()) or chosen["selection"] != "fisher"
    # Rounding: the loss of a batched evaluation and the norm are computed in float32.
    assert all(b <= a + 2e-6 for a, b in itertools.pairwise(objectives))


@pytest.mark.parametrize("selection", ["random", "largest", "fisher"])
def test_nothing_moves_but_subsets_of_the_right_size(selection):
    task = Task()
    optimizer = GLD(task.model.parameters(), radius=0.5, selection=selection, subset_size=10, reselect_every=3)
    moved = [torch.zeros_like(p, dtype=torch.bool) for p in task.model.parameters()]
    for step in range(6):
        before = task.bits()
        optimizer.step(task.closure, evaluate=task.loss)
        for union, old, new in zip(moved, before, task.bits(), strict=True):
            union |= old != new
        if step == 2:
            assert all(union.sum() <= min(10, union.numel()) for union in moved)
            assert moved[0].sum() == 10
            assert moved[3].sum() == 3  # smaller than its subset: all of it
    if selection == "random":
        assert 10 < moved[0].sum() <= 20


def test_a_group_has_its_own_subset_size_and_radius():
    task = Task()
    groups = [
        {"params": [task.model[0].weight], "subset_size": 4},
        {"params": [task.model[0].bias], "radius": 0.0},
        {"params": [task.model[2].weight], "radius": 1e-3, "subset_size": None},
    ]
    before = [task.model[i].weight.detach().clone() for i in (0, 2)]
    bias = task.model[0].bias.detach().clone()
    optimizer = GLD(groups, radius=1.0, num_radii=6, selection="random", subset_size=9)
    assert [group["lr"] for group in optimizer.param_groups] == [1.0, 0.0, 1e-3]
    record = None
    for _ in range(4):
        optimizer.step(evaluate=task.loss)
        record = optimizer.last_step
        assert record.evaluations == 1 + 2 * 6  # the tensor with radius 0 is not tried
    assert record.step_size == pytest.approx((1.0 + 1e-3) / 2)
    assert 4 <= (task.model[0].weight != before[0]).sum() <= 16
    assert torch.equal(task.model[0].bias, bias)
    change = (task.model[2].weight - before[1]).abs()
    assert 0 < change.max() < 0.02
    assert (change > 0).all()


def test_a_unit_of_several_tensors_moves_them_by_their_own_radii():
    task = Task()
    groups = [
        {"params": [task.model[0].weight], "unit": 0, "radius": 1.0},
        {"params": [task.model[2].weight], "unit": 0, "radius": 0.01},
        {"params": [task.model[0].bias], "unit": 0, "radius": 0.0},
    ]
    before = [group["params"][0].detach().clone() for group in groups]
    optimizer = GLD(groups, units="group", num_radii=1)
    while not (optimizer.last_step and optimizer.last_step.accepted):
        optimizer.step(evaluate=task.loss)
        assert optimizer.last_step.evaluations == 2
    assert optimizer.last_step.group == "0"
    steps = [group["params"][0].detach() - old for group, old in zip(groups, before, strict=True)]
    assert 0.6 < steps[0].std() < 1.5
    assert 0.006 < steps[1].std() < 0.015
    assert not steps[2].any()


def test_tensors_of_a_unit_move_in_different_entries():
    tensors = [nn.Parameter(torch.zeros(1000)) for _ in range(2)]
    optimizer = GLD(tensors, units="group", selection="random", subset_size=100)
    while not (optimizer.last_step and optimizer.last_step.accepted):
        optimizer.step(evaluate=lambda: tensors[0].sum() + tensors[1].sum())
    moved = [tensor.detach() != 0 for tensor in tensors]
    assert [int(each.sum()) for each in moved] == [100, 100]
    assert int((moved[0] & moved[1]).sum()) < 50


@pytest.mark.parametrize("width", [1, 2])
def test_the_state_does_not_grow_with_the_selections(width):
    task, sizes = Task(), []
    optimizer = GLD(task.model.parameters(), selection="random", subset_size=3, lookahead_width=width)
    for _ in range(30):
        optimizer.step(evaluate=task.loss)
        file = io.BytesIO()
        torch.save(optimizer.state_dict(), file)
        sizes.append(file.tell())
    assert max(sizes[20:]) <= max(sizes[5:10])


def test_the_adapted_radius_of_a_unit_outlives_the_freezing_of_its_first_tensor():
    tensors = [nn.Parameter(torch.zeros(3)) for _ in range(2)]
    optimizer = GLD(tensors, radius=0.5, units="group", success_rate=0.2, adaptation_rate=0.4)
    for frozen in (False, True):
        tensors[0].requires_grad_(not frozen)
        optimizer.step(evaluate=lambda: sum(tensor.abs().sum() for tensor in tensors))
    assert optimizer.last_step.step_size == pytest.approx(0.5 * math.exp(-0.4 * 0.2))


@pytest.mark.parametrize("selection", ["all", "random"])
def test_a_lookahead_begins_anew_where_other_tensors_of_its_unit_train(selection):
    """Its options are of the tensors that it had: those that join, or were away, are elsewhere than their roots."""
    task = Task()
    tensors = list(task.model.parameters())
    chosen = {"selection": selection, "subset_size": 5, "reselect_every": 4, "seed": 3}
    optimizer = GLD(tensors[:3], radius=0.3, units="group", lookahead_width=2, lookahead_levels=2, **chosen)
    losses = [task.loss().item()]
    for frozen in ([2], [], [0], [], [1], [0], [0, 1], [1, 2], []):
        for number, tensor in enumerate(tensors):
            tensor.requires_grad_(number not in frozen)
        for _ in range(4):
            before = [tensors[number].detach().clone() for number in frozen]
            assert float(optimizer.step(evaluate=task.loss)) == losses[-1]
            losses.append(task.loss().item())
            assert optimizer.last_step.loss_after == losses[-1]
            assert all(torch.equal(tensors[number], old) for number, old in zip(frozen, before, strict=True))
        if not frozen and len(optimizer.param_groups) == 1:
            optimizer.add_param_group({"params": [tensors[3]], "unit": "group 0"})
    assert all(after <= before for before, after in itertools.pairwise(losses))


def test_a_tensor_that_joins_its_unit_moves_in_a_subset_of_its_own():
    task = Task()
    weight, late = task.model[0].weight, task.model[2].weight
    optimizer = GLD([weight, late], radius=0.3, units="group", selection="random", subset_size=2, reselect_every=99)
    before = late.detach().clone()
    for trains in (False, True):
        late.requires_grad_(trains)
        for _ in range(8):
            optimizer.step(evaluate=task.loss)
    assert int((late != before).sum()) == 2


@pytest.mark.parametrize(
    "chosen",
    [
        {"units": "tensor"},
        {"units": "group"},
        {"selection": "random", "subset_size": 5, "norm_weight": 0.1},
        {"lookahead_width": 2},
        {"copy_limit": 0},
    ],
)
def test_candidates_at_once_make_the_same_decisions(chosen):
    alone, together = Task(), Task()
    one = GLD(alone.groups(), radius=0.3, **chosen)
    other = GLD(together.groups(), radius=0.3, candidates="at_once", **chosen)
    losses, computed = candidate_losses(together.model, together.loss), []

    def counted(parameters, values):
        computed.append(len(values[0]))
        return losses(parameters, values)

    for _ in range(10):
        computed.clear()
        one.step(evaluate=alone.loss)
        other.step(evaluate=together.loss, evaluate_many=counted)
        assert same_bits(alone.bits(), together.bits())
        # Staying is computed with the candidates of every unit: a loss in a batch rounds otherwise than one alone.
        assert other.last_step.evaluations == 1 + sum(computed)
        assert one.last_step.loss_after == pytest.approx(other.last_step.loss_after, abs=1e-5)


SCHEDULES = {
    "linear": lambda optimizer: LinearLR(optimizer, 1.0, 0.1, total_iters=12),
    "cosine": lambda optimizer: CosineAnnealingLR(optimizer, T_max=12),
    "lambda": lambda optimizer: LambdaLR(optimizer, lambda step: 0.9**step),
}


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(
    "chosen",
    [
        {"success_rate": 0.3, "units_per_round": 3},
        {"lookahead_levels": 2, "lookahead_width": 2},
        {"lookahead_levels": 2, "lookahead_width": 2, "selection": "largest", "subset_size": 6, "reselect_every": 3},
        {"selection": "random", "subset_size": 6, "reselect_every": 4, "copy_limit": 0},
        {"selection": "fisher", "subset_size": 6, "reselect_every": 5, "units": "group"},
    ],
)
def test_resuming_is_exact(schedule, chosen):
    def steps(task, optimizer, radii, count):
        for _ in range(count):
            optimizer.step(task.closure, evaluate=task.loss)
            radii.step()

    whole = Task()
    optimizer = GLD(whole.groups(), radius=0.3, **chosen)
    radii = SCHEDULES[schedule](optimizer)
    steps(whole, optimizer, radii, 5)
    file = io.BytesIO()
    torch.save(
        {"model": whole.model.state_dict(), "optimizer": optimizer.state_dict(), "radii": radii.state_dict()}, file
    )
    steps(whole, optimizer, radii, 7)

    resumed = Task(seed=1)
    resumed.inputs, resumed.labels = whole.inputs, whole.labels
    again = GLD(resumed.groups(), radius=0.7, **chosen)
    radii_again = SCHEDULES[schedule](again)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    resumed.model.load_state_dict(saved["model"])
    again.load_state_dict(saved["optimizer"])
    radii_again.load_state_dict(saved["radii"])
    steps(resumed, again, radii_again, 7)
    assert same_bits(whole.bits(), resumed.bits())
    assert optimizer.last_step == again.last_step
    assert optimizer.last_step.step_size < 0.3


def test_positions_beyond_what_float32_counts_survive_a_checkpoint():
    parameter = nn.Parameter(torch.zeros(4))
    optimizer = GLD([parameter], selection="random", subset_size=2)
    optimizer.step(evaluate=lambda: parameter.sum())
    optimizer.state[parameter]["indices"] = {0: torch.tensor([1, 2**24 + 1])}
    other = GLD([nn.Parameter(torch.zeros(4))], selection="random", subset_size=2)
    other.load_state_dict(optimizer.state_dict())
    index = other.state[other.param_groups[0]["params"][0]]["indices"][0]
    assert index.dtype == torch.int64
    assert index.tolist() == [1, 2**24 + 1]


def test_units_take_turns():
    task = Task()
    optimizer = GLD(task.model.parameters(), radius=0.2, num_radii=4, units_per_round=1)
    for step in range(8):
        before = task.bits()
        optimizer.step(evaluate=task.loss)
        assert optimizer.last_step.evaluations == 5
        changed = [i for i, (a, b) in enumerate(zip(before, task.bits(), strict=True)) if not torch.equal(a, b)]
        assert changed in ([], [step % 4])


def test_rounds_are_steps_on_the_same_batch():
    once, twice = Task(), Task()
    one, other = (
        GLD(once.model.parameters(), radius=0.2, units_per_round=3),
        GLD(twice.model.parameters(), radius=0.2, units_per_round=3, rounds=4),
    )
    for _ in range(8):
        one.step(evaluate=once.loss)
    for _ in range(2):
        other.step(evaluate=twice.loss)
        assert other.last_step.evaluations == 1 + 4 * 3 * 5
    assert same_bits(once.bits(), twice.bits())


def test_candidates_shrink_by_the_given_ratio():
    parameter = nn.Parameter(torch.zeros(2000, dtype=torch.float64))
    seen = []

    def loss():
        seen.append(parameter.std().item())
        return torch.tensor(0.0)

    GLD([parameter], radius=2.0, num_radii=4, shrink=0.8).step(evaluate=loss)
    np.testing.assert_allclose(seen, [0, 2, 1.6, 1.28, 1.024], rtol=0.1)


def test_adapted_radii_follow_the_success_rule():
    parameter = nn.Parameter(torch.zeros(3))
    optimizer = GLD([parameter], radius=0.5, success_rate=0.2, adaptation_rate=0.4)
    for _ in range(5):  # no candidate is ever better
        optimizer.step(evaluate=lambda: parameter.abs().sum())
    assert optimizer.last_step.accepted is False
    assert optimizer.state[parameter]["radius_factor"] == pytest.approx(math.exp(-0.4 * 0.2 * 5))
    assert optimizer.last_step.step_size == pytest.approx(0.5 * math.exp(-0.4 * 0.2 * 4))


@pytest.mark.parametrize("width", [1, 2])
def test_candidates_whose_loss_is_not_finite_are_rejected(width):
    parameter = nn.Parameter(torch.zeros(20))
    optimizer = GLD([parameter], radius=1.0, num_radii=6, lookahead_width=width)

    def loss():
        # Not finite wherever the entries are large, and lowest close to that.
        return (
            -parameter.norm() if parameter.norm() < 0.9 else torch.tensor(math.nan if parameter[0] > 0 else -math.inf)
        )

    for _ in range(20):
        optimizer.step(evaluate=loss)
        assert math.isfinite(optimizer.last_step.loss_after)
    assert 0.5 < parameter.norm() < 0.9


@pytest.mark.parametrize("width", [1, 2])
def test_a_step_of_which_no_candidate_is_finite_is_counted_and_leaves_the_radius(width):
    parameter = nn.Parameter(torch.ones(3))
    optimizer = GLD([parameter], success_rate=0.5, lookahead_width=width)
    optimizer.step(evaluate=lambda: torch.tensor(1.0 if (parameter == 1).all() else math.nan))
    assert optimizer.param_groups[0]["skipped"] == 1
    assert optimizer.state[parameter].get("radius_factor") == 1.0
    optimizer.param_groups[0]["lr"] = 0.0  # nothing is tried
    optimizer.step(evaluate=lambda: torch.tensor(1.0))
    assert optimizer.param_groups[0]["skipped"] == 1


@pytest.mark.parametrize("width", [1, 2])
def test_candidates_at_once_are_compared_with_staying_as_it_is_computed_among_them(width):
    task = Task()
    optimizer = GLD(task.model.parameters(), candidates="at_once", lookahead_width=width)
    before = task.bits()
    optimizer.step(evaluate=lambda: torch.tensor(1.0), evaluate_many=lambda _, values: torch.full((6,), 0.5))
    assert same_bits(before, task.bits())
    assert optimizer.last_step.accepted is False


def test_a_parameter_without_entries_takes_no_candidates():
    task = Task()
    optimizer = GLD([nn.Parameter(torch.zeros(0)), *task.model.parameters()], num_radii=2)
    optimizer.step(evaluate=task.loss)
    assert optimizer.last_step.evaluations == 1 + 4 * 2


@pytest.mark.parametrize("start", [math.nan, math.inf])
def test_a_start_that_is_not_finite_skips_the_step_and_is_counted(start):
    task = Task()
    before = task.bits()
    optimizer = GLD(task.model.parameters())
    loss = optimizer.step(evaluate=lambda: torch.tensor(start))
    assert same_bits(before, task.bits())
    assert not math.isfinite(loss)
    assert repr(optimizer.last_step.loss_before) == repr(optimizer.last_step.loss_after) == repr(start)
    assert optimizer.last_step.accepted is False
    assert optimizer.last_step.evaluations == 1
    assert optimizer.param_groups[0]["skipped"] == 1


@pytest.mark.parametrize("copy_limit", [0, 2**22])
@pytest.mark.parametrize("width", [1, 2])
def test_an_exception_leaves_the_parameters_where_they_were(copy_limit, width):
    task = Task()
    optimizer = GLD(task.model.parameters(), radius=0.1, copy_limit=copy_limit, lookahead_width=width)
    optimizer.step(evaluate=task.loss)
    before, calls = task.bits(), 0

    def loss():
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return torch.tensor(1.0)

    with pytest.raises(KeyboardInterrupt):
        optimizer.step(evaluate=loss)
    assert calls == 4
    assert same_bits(before, task.bits())


def test_no_graph_is_built():
    task = Task()

    def loss():
        value = task.loss()
        assert not value.requires_grad
        return value

    GLD(task.model.parameters()).step(evaluate=loss)
    assert all(p.grad is None and p.requires_grad for p in task.model.parameters())


def test_fisher_selection_works_with_gradients_switched_off():
    task = Task()
    task.model.requires_grad_(False)
    optimizer = GLD(task.model.parameters(), radius=0.3, selection="fisher", subset_size=2)
    before = task.bits()
    optimizer.step(task.closure, evaluate=task.loss)
    assert not same_bits(before, task.bits())
    assert not any(p.requires_grad or p.grad is not None for p in task.model.parameters())
    gradient = Task()
    gradient.loss().backward()
    expected = gradient.model[0].weight.grad.view(-1).abs().topk(2).indices.sort().values
    assert torch.equal(optimizer.state[task.model[0].weight]["indices"][0], expected)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("radius", -1.0),
        ("radius", math.nan),
        ("num_radii", 0),
        ("num_radii", 2.5),
        ("shrink", 0.0),
        ("shrink", 1.5),
        ("rounds", 0),
        ("units", "layer"),
        ("units_per_round", 0),
        ("success_rate", 1.0),
        ("adaptation_rate", 0.0),
        ("selection", "smallest"),
        ("subset_size", 0),
        ("subset_size", 1.5),
        ("reselect_every", 0),
        ("lookahead_levels", 0),
        ("lookahead_width", 0),
        ("norm_weight", -0.1),
        ("candidates", "all"),
        ("copy_limit", -1),
        ("noise_device", "gpu"),
    ],
)
def test_an_argument_out_of_range_is_one_clear_line(argument, value):
    with pytest.raises(ValueError, match=argument) as error:
        GLD([nn.Parameter(torch.ones(2))], **{argument: value})
    assert "\n" not in str(error.value)
    assert str(value) in str(error.value)


def test_what_is_missing_is_one_clear_line():
    parameter = nn.Parameter(torch.ones(2))
    with pytest.raises(ValueError, match="subset_size"):
        GLD([parameter], selection="random")
    with pytest.raises(ValueError, match="neither evaluate nor closure"):
        GLD([parameter]).step()
    with pytest.raises(ValueError, match="evaluate_many"):
        GLD([parameter], candidates="at_once").step(evaluate=parameter.sum)
    with pytest.raises(ValueError, match="fisher"):
        GLD([parameter], selection="fisher", subset_size=1).step(evaluate=parameter.sum)


def test_units_are_named_after_their_groups():
    tensors = [torch.zeros(1) for _ in range(4)]
    groups = [
        {"params": tensors[:1], "name": "head"},
        {"params": tensors[1:3]},
        {"params": tensors[3:], "unit": "body"},
    ]
    members = [(tensor, group) for group in groups for tensor in group["params"]]
    of_tensors = [unit.name for unit in candidate_units(members, groups, "tensor")]
    assert of_tensors == ["head", "group 1, tensor 1", "group 1, tensor 2", "body"]
    assert [unit.name for unit in candidate_units(members, groups, "group")] == ["head", "group 1", "body"]
