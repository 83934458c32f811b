"""Directions: those that are here, against torch and against formulas; and one that a user adds."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from optimizers import (
    SGDSLS,
    AdamSLS,
    ArmijoSearch,
    Direction,
    EveryStep,
    LineSearchOptimizer,
    ParabolicAdam,
    SaLSA,
    adam,
    direction_pieces,
    group_update,
    lion,
    sgd,
)
from tests.optimizers.problem import TorchProblem


def movement(direction):
    """What a direction subtracts at step size 1, per tensor."""
    moves = []
    for i, numerator in enumerate(direction.numerators):
        eps = direction.eps[i] if direction.eps else 0.0
        move = numerator if direction.squares is None else numerator / (direction.squares[i].sqrt() + eps)
        moves.append(move if direction.scales is None else move * direction.scales[i])
    return moves


def test_sgd_is_the_gradient():
    grads = [torch.randn(3), torch.randn(())]
    assert sgd([], grads, [{}, {}], {}).numerators is grads


@pytest.mark.parametrize("amsgrad", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_adam_moves_as_torch_adamw(amsgrad, dtype):
    theirs = [nn.Parameter(torch.randn(4, 3, dtype=dtype)), nn.Parameter(torch.randn((), dtype=dtype))]
    ours = [nn.Parameter(p.detach().clone()) for p in theirs]
    optimizer = torch.optim.AdamW(theirs, lr=0.1, betas=(0.8, 0.95), eps=1e-3, amsgrad=amsgrad, weight_decay=0)
    states = [{} for _ in ours]
    group = {"betas": (0.8, 0.95), "eps": 1e-3, "amsgrad": amsgrad}
    for step in range(6):
        for p in theirs:
            p.grad = torch.randn_like(p) * 3 ** (2 - step)
        optimizer.step()
        direction = adam(ours, [p.grad for p in theirs], states, group)
        for p, move in zip(ours, movement(direction), strict=True):
            p.data -= 0.1 * move
    tolerance = {"rtol": 1e-9, "atol": 1e-12} if dtype == torch.float64 else {"rtol": 0.05, "atol": 0.05}
    for a, b, state in zip(ours, theirs, states, strict=True):
        torch.testing.assert_close(a, b, **tolerance)
        assert set(state) == set(optimizer.state[b])
        torch.testing.assert_close(state["exp_avg_sq"], optimizer.state[b]["exp_avg_sq"])


def test_adam_without_momentum_divides_the_gradient():
    p, g = nn.Parameter(torch.randn(5)), torch.randn(5)
    group = {"betas": (0.9, 0.999), "eps": 0.0, "amsgrad": False}
    direction = adam([p], [g], [{}], group)
    torch.testing.assert_close(movement(direction.without_momentum)[0], g.sign())
    assert adam([p], [g], [{}], {**group, "betas": (0.0, 0.999)}).without_momentum is None


def test_adam_corrects_every_parameter_by_its_own_steps():
    group = {"betas": (0.9, 0.999), "eps": 0.0, "amsgrad": False}
    early, late = nn.Parameter(torch.randn(3)), nn.Parameter(torch.randn(3))
    states = [{}, {}]
    for _ in range(4):
        adam([early], [torch.randn(3)], states[:1], group)
    grad = torch.randn(3)
    moves = movement(adam([early, late], [grad, grad], states, group))
    torch.testing.assert_close(moves[1], grad.sign())
    assert [state["step"].item() for state in states] == [5, 1]


def test_lion_is_the_sign_of_its_formula():
    p, state, m = nn.Parameter(torch.randn(50)), {}, torch.zeros(50)
    for _ in range(4):
        g = torch.randn(50)
        (move,) = movement(lion([p], [g], [state], {"betas": (0.9, 0.99)}))
        torch.testing.assert_close(move, (0.9 * m + 0.1 * g).sign())
        m = 0.99 * m + 0.01 * g
        torch.testing.assert_close(state["exp_avg"], m)


def normalized(params, grads, states, group):
    """The gradient divided by its norm, with a count of its own: a direction that a user adds."""
    for state in states:
        state["calls"] = state.get("calls", 0) + 1
    norm = torch.stack([g.norm() for g in grads]).norm()
    return Direction([g / norm for g in grads], scales=[group["strength"]] * len(grads))


def test_a_direction_is_one_function():
    problem = TorchProblem()
    optimizer = LineSearchOptimizer(
        problem.parameters(),
        normalized,
        ArmijoSearch(c=0.1, shrink=0.8),
        EveryStep(),
        initial_step_size=10.0,
        growth=2.0,
        direction_options={"strength": 0.5},
    )
    start = [p.detach().clone() for p in problem.parameters()]
    closure, evaluate = problem.callables(optimizer, 0)
    optimizer.step(closure, evaluate=evaluate)
    norm = torch.stack([p.grad.norm() for p in problem.parameters()]).norm()
    assert optimizer.last_step.slope == pytest.approx(0.5 * norm.item())
    for p, before in zip(problem.parameters(), start, strict=True):
        torch.testing.assert_close(before - p, 0.5 * optimizer.last_step.step_size * p.grad / norm)
    assert all(optimizer.state[p]["calls"] == 1 for p in problem.parameters())
    losses = problem.run(SaLSA(problem.parameters(), direction=sgd), 5).loss
    assert all(loss > 0 for loss in losses)


def train(make, dtype, on_cpu, monkeypatch):
    """Steps, computed as on a CPU (in small pieces, and in one pass without a search), or as on a device."""
    original = group_update.GroupUpdate.__init__

    def init(self, *args):
        original(self, *args)
        self._on_cpu = on_cpu

    generator = torch.Generator().manual_seed(0)
    shapes = [(5, 3), (3, 4, 2, 2), ()]
    values = [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes * 2]
    values[1] = values[1].to(memory_format=torch.channels_last)
    params, targets = [nn.Parameter(value) for value in values[:3]], values[3:]
    optimizer = make(params, weight_decay=0.01)

    def closure():
        optimizer.zero_grad()
        loss = sum((p - t).double().square().sum() for p, t in zip(params, targets, strict=True))
        loss.backward()
        return loss

    records = []
    with monkeypatch.context() as patch:
        patch.setattr(direction_pieces, "_CPU_CHUNK", 4)
        patch.setattr(group_update.GroupUpdate, "__init__", init)
        if not on_cpu:
            patch.setattr(group_update, "STEPS", {})
        for _ in range(16):
            optimizer.step(closure)
            records.append(optimizer.last_step)
    return records, [p.detach() for p in params]


@pytest.mark.parametrize(
    "make",
    [
        partial(AdamSLS, amsgrad=True),
        partial(AdamSLS, condition="momentum"),
        partial(AdamSLS, momentum="heavy_ball"),
        SaLSA,
        partial(SaLSA, amsgrad=True),
        ParabolicAdam,
        partial(SaLSA, direction=lion, betas=(0.9, 0.99)),
        partial(SGDSLS, momentum=0.5),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_pieces_on_a_cpu_and_whole_tensors_on_a_device_are_the_same_steps(make, dtype, monkeypatch):
    (records, params), (expected, expected_params) = (train(make, dtype, on, monkeypatch) for on in (True, False))
    assert [record.evaluations for record in records] == [record.evaluations for record in expected]
    assert [record.slope for record in records] == pytest.approx([record.slope for record in expected], nan_ok=True)
    assert records[-1].loss_before < 0.5 * records[0].loss_before
    for a, b in zip(params, expected_params, strict=True):
        torch.testing.assert_close(a, b)


def test_a_quotient_takes_the_place_of_its_denominator_once():
    direction = Direction([torch.tensor([3.0, 8.0])], squares=[torch.tensor([9.0, 16.0])], eps=[0.0])
    (piece,) = direction_pieces.pieces_on_cpu(direction, [None])
    denominator = piece.denominator
    assert piece.over_denominator(piece.numerator).tolist() == [1.0, 2.0]
    assert denominator.tolist() == [1.0, 2.0]
    with pytest.raises(AttributeError, match="denominator"):
        piece.over_denominator(piece.numerator)


def test_adamw_goes_on_from_the_state_of_a_line_search():
    problem = TorchProblem()
    searched = AdamSLS(problem.groups())
    problem.run(searched, 5)
    adamw = torch.optim.AdamW(problem.groups(), lr=1e-3)
    adamw.load_state_dict({"state": searched.state_dict()["state"], "param_groups": adamw.state_dict()["param_groups"]})
    adamw.step(problem.callables(adamw, 5)[0])
    assert adamw.state[problem.parameters()[0]]["step"].item() == 6


def test_steps_are_counted_beyond_256_where_the_default_is_bfloat16():
    param, state = torch.ones(3, dtype=torch.float32), {}
    group = {"betas": (0.9, 0.999), "eps": 1e-8, "amsgrad": False}
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)  # as Lightning's bf16-true does while a step runs
    try:
        for _ in range(300):
            adam([param], [torch.ones_like(param)], [state], group)
    finally:
        torch.set_default_dtype(before)
    assert state["step"].item() == 300
