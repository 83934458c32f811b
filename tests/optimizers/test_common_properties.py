"""What holds for every optimizer of the list `all_optimizers.OPTIMIZERS`."""

from __future__ import annotations

import copy
import inspect
import io
import itertools
import math
import pickle

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from optimizers import ParabolicAdam, StepRecord, UnitReport, traits
from tests.optimizers.all_optimizers import OPTIMIZERS

every_optimizer = pytest.mark.parametrize("name", OPTIMIZERS)


class Problem:
    """A small network with dropout on one fixed batch, in named groups."""

    def __init__(self, dropout=0.2):
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 3))
        self.inputs, self.labels = torch.randn(12, 4), torch.arange(12) % 3
        self.extra: list[nn.Parameter] = []

    def parameters(self):
        return list(self.model.parameters())

    def groups(self):
        body, head = self.model[0], self.model[3]
        return [
            {"params": [*body.parameters(), *self.extra], "name": "body"},
            {"params": list(head.parameters()), "name": "head"},
        ]

    def loss(self):
        return F.cross_entropy(self.model(self.inputs), self.labels)

    def callables(self, optimizer, step):
        """The closure and the evaluation of a step, which draw the same dropout masks."""
        torch.manual_seed(step)
        before = torch.get_rng_state()

        def closure():
            optimizer.zero_grad()
            loss = self.loss()
            loss.backward()
            return loss

        @torch.no_grad()
        def evaluate():
            after = torch.get_rng_state()
            torch.set_rng_state(before)
            try:
                return self.loss()
            finally:
                torch.set_rng_state(after)

        return closure, evaluate


def measures_trials(optimizer):
    return "evaluate" in inspect.signature(type(optimizer).step).parameters


def take(optimizer, closure, evaluate):
    return optimizer.step(closure, evaluate=evaluate) if measures_trials(optimizer) else optimizer.step(closure)


def run(problem, optimizer, steps, first=0):
    """The losses and step sizes of some steps."""
    trace = []
    for step in range(first, first + steps):
        loss = take(optimizer, *problem.callables(optimizer, step))
        trace.append((float(loss.detach()), [group["lr"] for group in optimizer.param_groups]))
    return trace


def values(params):
    return [p.detach().clone() for p in params]


def equal(params, others):
    return all(torch.equal(p, other) for p, other in zip(params, others, strict=True))


@every_optimizer
def test_descends_on_a_fixed_batch(name):
    problem = Problem(dropout=0.0)
    losses = [loss for loss, _ in run(problem, OPTIMIZERS[name](problem.groups()), 60)]
    assert all(map(math.isfinite, losses))
    assert losses[-1] < 0.97 * losses[0]


@every_optimizer
def test_returns_the_loss_at_the_start(name):
    problem = Problem()
    optimizer = OPTIMIZERS[name](problem.groups())
    for step in range(12):
        closure, evaluate = problem.callables(optimizer, step)
        start = evaluate().item()
        # MeZO's mean of two losses is the loss at the start up to the square of its perturbation.
        assert float(take(optimizer, closure, evaluate).detach()) == pytest.approx(start, rel=1e-4)


@every_optimizer
def test_a_closure_alone_gives_the_same_steps(name):
    both, alone = Problem(), Problem()
    optimizer, other = OPTIMIZERS[name](both.groups()), OPTIMIZERS[name](alone.groups())
    for step in range(20):
        loss = take(optimizer, *both.callables(optimizer, step))
        drawn = torch.get_rng_state()
        closure, _ = alone.callables(other, step)
        assert float(other.step(closure).detach()) == float(loss.detach())
        if traits(optimizer).needs_gradient:
            assert torch.equal(torch.get_rng_state(), drawn)
        else:
            assert all(p.grad is None for p in alone.parameters())
    assert equal(both.parameters(), alone.parameters())


@every_optimizer
def test_a_resumed_run_continues_exactly(name):
    problem, resumed = Problem(), Problem()
    optimizer = OPTIMIZERS[name](problem.groups())
    run(problem, optimizer, 13)
    file = io.BytesIO()
    torch.save({"model": problem.model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    resumed.model.load_state_dict(saved["model"])
    fresh = OPTIMIZERS[name](resumed.groups())
    fresh.load_state_dict(saved["optimizer"])
    assert run(problem, optimizer, 20, first=13) == run(resumed, fresh, 20, first=13)
    assert equal(problem.parameters(), resumed.parameters())


@every_optimizer
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
def test_copies_continue_exactly(name, duplicate):
    problem = Problem()
    optimizer = OPTIMIZERS[name](problem.groups())
    run(problem, optimizer, 12)
    twin, other = duplicate((problem, optimizer))
    assert repr(getattr(other, "last_step", None)) == repr(getattr(optimizer, "last_step", None))
    assert other.param_groups[0]["params"][0] is twin.parameters()[0]
    assert run(problem, optimizer, 6, first=12) == run(twin, other, 6, first=12)


@every_optimizer
def test_says_what_it_can_do(name):
    problem = Problem()
    optimizer = OPTIMIZERS[name](problem.groups())
    says = traits(optimizer)
    assert says == traits(type(optimizer))
    before = [group["lr"] for group in optimizer.param_groups]
    if not says.needs_gradient:
        for p in problem.parameters():
            p.grad = torch.ones_like(p)
        kept = [p.grad for p in problem.parameters()]
        _, evaluate = problem.callables(optimizer, 0)
        optimizer.step(evaluate=evaluate)
        assert all(p.grad is grad for p, grad in zip(problem.parameters(), kept, strict=True))
        assert all((grad == 1).all() for grad in kept)
    slopes, step_sizes = [], []
    for step in range(20):
        step_sizes += [sizes for _, sizes in run(problem, optimizer, 1, first=step)]
        slopes.append(optimizer.last_step.slope if says.measures_slope else math.nan)
    assert any(sizes != before for sizes in step_sizes) or not says.sets_step_size
    assert any(slope > 0 for slope in slopes) or not says.measures_slope
    if says.takes_progress:
        optimizer.progress = 0.5


@every_optimizer
def test_keeps_a_record_of_the_last_step(name):
    problem = Problem()
    optimizer = OPTIMIZERS[name](problem.groups())
    if not hasattr(optimizer, "last_step"):
        pytest.skip("keeps no record")
    assert optimizer.last_step is None
    for step in range(15):
        ((loss, _),) = run(problem, optimizer, 1, first=step)
        record = optimizer.last_step
        assert isinstance(record, StepRecord)
        assert record.loss_before == pytest.approx(loss, rel=1e-6)
        assert record.backtracks <= record.evaluations
        assert record.group in (None, "body", "head") or record.group.startswith(("body", "head"))
    if hasattr(optimizer, "unit_reports"):
        reports = optimizer.unit_reports()
        assert set(reports) in ({"model"}, {"body", "head"}, {"body"}, {"head"})
        assert all(isinstance(report, UnitReport) and report.searches for report in reports.values())


@every_optimizer
def test_what_is_frozen_or_empty_is_left_alone(name):
    problem = Problem()
    frozen = nn.Parameter(torch.ones(3), requires_grad=False)
    problem.extra = [frozen, nn.Parameter(torch.ones(0, 4))]
    optimizer = OPTIMIZERS[name](problem.groups())
    start = values(problem.parameters())
    run(problem, optimizer, 15)
    assert torch.equal(frozen, torch.ones(3))
    assert not equal(problem.parameters(), start)


@every_optimizer
@pytest.mark.parametrize("trains", [True, False])
def test_whole_numbers_are_left_alone(name, trains):
    """As in a quantised model; without gradients all else moves, although none requires one."""
    problem = Problem()
    problem.extra = [nn.Parameter(torch.arange(3, dtype=torch.int8), requires_grad=False)]
    optimizer = OPTIMIZERS[name](problem.groups())
    if not trains and traits(optimizer).needs_gradient:
        pytest.skip("has nothing to move")
    for parameter in problem.parameters():
        parameter.requires_grad_(trains)
    start = values(problem.parameters())
    for step in range(12):
        closure, evaluate = problem.callables(optimizer, step)
        take(optimizer, closure if trains else None, evaluate)
    assert torch.equal(problem.extra[0], torch.arange(3, dtype=torch.int8))
    assert not equal(problem.parameters(), start)


@every_optimizer
def test_a_parameter_without_a_gradient_is_left_alone(name):
    problem = Problem()
    unused = nn.Parameter(torch.ones(3))
    problem.extra = [unused]
    optimizer = OPTIMIZERS[name](problem.groups())
    if not traits(optimizer).needs_gradient:
        pytest.skip("moves whatever may move")
    run(problem, optimizer, 15)
    assert torch.equal(unused, torch.ones(3))
    assert unused.grad is None


@every_optimizer
def test_nothing_to_move_is_no_error(name):
    frozen = nn.Parameter(torch.ones(3), requires_grad=False)
    optimizer = OPTIMIZERS[name]([frozen])
    if not traits(optimizer).needs_gradient:
        pytest.skip("moves everything where nothing has a gradient")
    loss = take(optimizer, lambda: torch.tensor(2.0), lambda: torch.tensor(2.0))
    assert loss.item() == 2.0
    assert torch.equal(frozen, torch.ones(3))


@every_optimizer
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_leaves_the_parameters_as_they_were(name, value):
    problem = Problem()
    optimizer = OPTIMIZERS[name](problem.groups())
    if not measures_trials(optimizer):
        pytest.skip("never looks at the loss")
    run(problem, optimizer, 12)
    before = values(problem.parameters())
    closure, evaluate = problem.callables(optimizer, 12)
    optimizer.step(lambda: closure() * value, evaluate=lambda: evaluate() * value)
    assert equal(problem.parameters(), before)
    if "skipped" in optimizer.param_groups[0]:
        assert [group["skipped"] for group in optimizer.param_groups] == [1, 1]
    if hasattr(optimizer, "last_step"):
        assert not optimizer.last_step.accepted
    assert all(math.isfinite(loss) for loss, _ in run(problem, optimizer, 5, first=13))


@every_optimizer
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_search_without_a_finite_trial_keeps_its_step_size_and_is_skipped(name, value):
    """A loss that is finite where the step starts and nowhere else says nothing about step sizes."""
    problem = Problem()
    optimizer = OPTIMIZERS[name](problem.groups())
    if not measures_trials(optimizer):
        pytest.skip("never looks at the loss")
    run(problem, optimizer, 12)
    if "skipped" not in optimizer.param_groups[0]:
        pytest.skip("counts no skipped steps")
    rates = [group["lr"] for group in optimizer.param_groups]
    radii = [state.get("radius_factor") for state in optimizer.state.values()]
    closure, evaluate = problem.callables(optimizer, 12)
    for _ in range(12):  # a step between two searches has no trial
        calls = itertools.count(traits(optimizer).needs_gradient)
        start = values(problem.parameters())
        # The first loss that is evaluated is that of the start, unless the closure has computed it.
        optimizer.step(closure, evaluate=lambda calls=calls: evaluate() * (value if next(calls) else 1.0))
        if any(group["skipped"] for group in optimizer.param_groups):
            break
    skipped = [bool(group["skipped"]) for group in optimizer.param_groups]
    assert any(skipped)
    for place, (left_out, rate) in enumerate(zip(skipped, rates, strict=True)):
        if left_out and not isinstance(optimizer, ParabolicAdam):  # whose rate follows a schedule
            assert optimizer.param_groups[place]["lr"] == rate
    if all(skipped):
        assert equal(problem.parameters(), start)
        assert not optimizer.last_step.accepted
    assert [state.get("radius_factor") for state in optimizer.state.values()] == radii


@every_optimizer
def test_an_exception_in_a_trial_leaves_the_parameters_as_they_were(name):
    problem = Problem()
    optimizer = OPTIMIZERS[name](problem.groups())
    if not measures_trials(optimizer):
        pytest.skip("makes no trials")
    before = values(problem.parameters())
    closure, evaluate = problem.callables(optimizer, 0)
    calls = []

    def interrupted():
        calls.append(1)
        if len(calls) > (0 if traits(optimizer).needs_gradient else 1):
            raise KeyboardInterrupt
        return evaluate()

    with pytest.raises(KeyboardInterrupt):
        optimizer.step(closure, evaluate=interrupted)
    assert equal(problem.parameters(), before)


@every_optimizer
def test_groups_added_between_steps_move(name):
    problem = Problem()
    first, second = problem.groups()
    optimizer = OPTIMIZERS[name]([first])
    run(problem, optimizer, 5)
    start = values(second["params"])
    optimizer.add_param_group(second)
    run(problem, optimizer, 24, first=5)
    assert not any(torch.equal(p, before) for p, before in zip(second["params"], start, strict=True))


@every_optimizer
@pytest.mark.parametrize(
    ("returned", "named"),
    [
        (lambda loss: {"loss": loss}, "a dict"),
        (lambda loss: (loss, loss), "a tuple"),
        (lambda loss: torch.stack([loss, loss]), r"a tensor of shape \(2,\)"),
        (lambda loss: loss + 1j, "a complex tensor"),
    ],
)
def test_a_loss_that_is_no_number_is_named(name, returned, named):
    problem = Problem()
    optimizer = OPTIMIZERS[name](problem.groups())
    closure, evaluate = problem.callables(optimizer, 0)
    if not measures_trials(optimizer):
        pytest.skip("it does not read the loss")
    before = values(problem.parameters())
    for arguments in ({"closure": lambda: returned(closure())}, {"evaluate": lambda: returned(evaluate())}):
        closure()
        with pytest.raises(ValueError, match=f"the loss has to be a single number, got {named}"):
            optimizer.step(**arguments)
    assert equal(values(problem.parameters()), before)


@every_optimizer
@pytest.mark.parametrize("returned", [Tensor.item, lambda loss: loss.detach().numpy(), lambda loss: loss.reshape(1)])
def test_a_loss_may_be_any_single_number(name, returned):
    problem, usual = Problem(), Problem()
    optimizer, other = OPTIMIZERS[name](problem.groups()), OPTIMIZERS[name](usual.groups())
    for step in range(3):
        closure, _ = problem.callables(optimizer, step)
        optimizer.step(lambda closure=closure: returned(closure()))
        other.step(usual.callables(other, step)[0])
    for one, its in zip(problem.parameters(), usual.parameters(), strict=True):
        assert torch.allclose(one, its, rtol=1e-5, atol=1e-6)
