"""MeZO and its line search against NumPy code written from the algorithm."""

from __future__ import annotations

import gc
import io
import math
import pickle

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LinearLR

from optimizers import GLD, LineSearchMeZO, MeZO, Traits, scale_learning_rates, traits
from optimizers.gradient_free_step import read_losses
from optimizers.perturbation import derive_seed
from tests.optimizers.gradient_free_reference import line_search_mezo, loss_of, mezo
from tests.optimizers.problem import TorchProblem
from tests.optimizers.task import Task, same_bits

SEED = 3
METHODS = [MeZO, LineSearchMeZO]


def noise(step, shapes):
    generator = torch.Generator().manual_seed(derive_seed(SEED, step))
    sizes = [math.prod(shape) for shape in shapes]
    return [
        torch.randn(size, generator=generator).double().numpy().reshape(shape)
        for size, shape in zip(sizes, shapes, strict=True)
    ]


def run(problem, optimizer, steps, schedule=None):
    points, records, losses = [], [], []
    for step in range(steps):
        closure, evaluate = problem.callables(optimizer, step)
        before = problem.evaluations
        losses.append(optimizer.step(closure, evaluate=evaluate).item())
        assert optimizer.last_step.evaluations == problem.evaluations - before
        if schedule is not None:
            schedule.step()
        points.append([p.detach().clone().numpy() for p in problem.parameters()])
        records.append(optimizer.last_step)
    return points, records, losses


@pytest.mark.parametrize("copy_limit", [0, 2**22])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_mezo_follows_the_algorithm(copy_limit, weight_decay):
    problem = TorchProblem()
    start = [p.detach().numpy().copy() for p in problem.parameters()]
    optimizer = MeZO(problem.groups(), lr=0.02, weight_decay=weight_decay, seed=SEED, copy_limit=copy_limit)
    schedule = LinearLR(optimizer, 1.0, 0.5, total_iters=40)
    expected, gradients = mezo(
        loss_of(problem.reference),
        start,
        40,
        noise,
        lr=lambda step: 0.02 * (1 - 0.5 * step / 40),
        epsilon=1e-3,
        weight_decay=weight_decay,
    )
    points, records, losses = run(problem, optimizer, 40, schedule)
    for one, other in zip(points, expected, strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose([record.slope for record in records], np.square(gradients), rtol=1e-5)
    reference = [loss_of(problem.reference)(p, i) for i, p in enumerate([start, *expected[:-1]])]
    np.testing.assert_allclose(losses, reference, rtol=1e-4)


@pytest.mark.parametrize("copy_limit", [0, 2**22])
def test_the_line_search_follows_the_algorithm(copy_limit):
    problem = TorchProblem()
    start = [p.detach().numpy().copy() for p in problem.parameters()]
    # A first trial small enough to be accepted: the coarse way down from a large one has a test of its own.
    optimizer = LineSearchMeZO(
        problem.groups(), step_size=1e-4, c=0.3, shrink=0.7, growth=3.0, seed=SEED, copy_limit=copy_limit
    )
    expected, step_sizes = line_search_mezo(
        loss_of(problem.reference), start, 40, noise, first=1e-4, c=0.3, shrink=0.7, growth=3.0, epsilon=1e-3
    )
    points, records, _ = run(problem, optimizer, 40)
    np.testing.assert_allclose([record.step_size for record in records], step_sizes, rtol=1e-6)
    for one, other in zip(points, expected, strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)
    assert max(record.backtracks for record in records) > 3
    assert all(record.loss_after < record.loss_before for record in records)


def test_a_first_trial_that_is_far_too_long_is_brought_down_coarsely():
    task = Task()
    optimizer = LineSearchMeZO(task.model.parameters(), step_size=1e6)
    optimizer.step(evaluate=task.loss)
    assert optimizer.last_step.accepted
    assert optimizer.last_step.evaluations < 3 + 16
    assert optimizer.last_step.loss_after < optimizer.last_step.loss_before


@pytest.mark.parametrize("copy_limit", [0, 2**22])
def test_the_line_search_never_raises_the_loss_and_learns(copy_limit):
    task = Task()
    optimizer = LineSearchMeZO(task.model.parameters(), copy_limit=copy_limit)
    first = task.loss().item()
    for _ in range(60):
        before = task.loss().item()
        optimizer.step(evaluate=task.loss)
        assert task.loss().item() <= before + 1e-6
    assert task.loss().item() < first - 0.15


def test_the_noise_of_small_batches_does_not_drive_the_step_size_up():
    # Many more parameters than a batch has examples, and labels that the inputs explain in part.
    generator = torch.Generator().manual_seed(0)
    inputs = 3 * torch.randn(2000, 400, generator=generator) / torch.arange(1, 401).sqrt()
    labels = (inputs[:, 0] + torch.randn(2000, generator=generator) > 0).float()

    def loss(weight, rows):
        return nn.functional.binary_cross_entropy_with_logits(inputs[rows] @ weight, labels[rows])

    def final_loss(**settings):
        weight = nn.Parameter(torch.zeros(400))
        optimizer = LineSearchMeZO([weight], **settings)
        for step in range(300):
            rows = torch.arange(16 * step, 16 * step + 16) % 2000
            optimizer.step(evaluate=lambda rows=rows: loss(weight.detach(), rows))
        return loss(weight.detach(), slice(None)).item()

    assert final_loss() < 0.4
    assert final_loss(c=0.5, growth=2.0) > 1.0


@pytest.mark.parametrize("copy_limit", [0, 2**22])
def test_a_failed_search_leaves_every_bit(copy_limit):
    task = Task()
    optimizer = LineSearchMeZO(task.model.parameters(), copy_limit=copy_limit)
    optimizer.step(evaluate=task.loss)
    assert optimizer.last_step.accepted
    optimizer.max_trials = 3

    def fail():  # the probes see a slope, and no trial any decrease
        losses = iter([1.0, 1.1, 0.9, 2.0, 2.0, 2.0])
        optimizer.step(evaluate=lambda: torch.tensor(next(losses)))
        assert next(losses, None) is None

    if copy_limit == 0:
        fail()  # rounds the parameters for trials of this length
    before, lr = task.bits(), optimizer.param_groups[0]["lr"]
    first_trial = min(optimizer.growth * lr, 1.0 / 100)
    fail()
    assert same_bits(before, task.bits())
    assert optimizer.last_step.accepted is False
    assert optimizer.last_step.backtracks == 3
    assert optimizer.last_step.loss_after == 1.0
    # The next search goes on where this one gave up.
    assert optimizer.growth * optimizer.param_groups[0]["lr"] == pytest.approx(first_trial / 4, rel=1e-4)


def losses_of(*values):
    losses = iter(values)
    return lambda: torch.tensor(next(losses))


def test_first_searches_that_fail_come_down_by_factors_of_ten_until_one_succeeds():
    optimizer = LineSearchMeZO(Task().model.parameters(), step_size=1e-3, growth=3.0, max_trials=3)
    for number in (1, 2):
        optimizer.step(evaluate=losses_of(1.0, 1.1, 0.9, 2.0, 2.0, 2.0))
        assert optimizer.param_groups[0]["lr"] == pytest.approx(1e-3 * 0.1 ** (2 * number))


def test_a_search_without_a_finite_trial_is_counted_and_leaves_the_step_size():
    task = Task()
    optimizer = LineSearchMeZO(task.model.parameters(), max_trials=3)
    optimizer.step(evaluate=task.loss)
    lr, before = optimizer.param_groups[0]["lr"], task.bits()
    optimizer.step(evaluate=losses_of(1.0, 1.1, 0.9, math.nan, math.inf, math.nan))
    assert optimizer.param_groups[0]["lr"] == lr
    assert optimizer.param_groups[0]["skipped"] == 1
    assert same_bits(before, task.bits())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("copy_limit", [0, 2**22])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_probes_that_are_not_finite_skip_the_step_and_are_counted(method, copy_limit, bad):
    task = Task()
    optimizer = method(task.model.parameters(), copy_limit=copy_limit)
    if copy_limit == 0:
        for group in optimizer.param_groups:
            group["lr"] = 0.0 if method is MeZO else group["lr"]
        optimizer.step(evaluate=lambda: torch.tensor(1.0))
    before, calls = task.bits(), 0

    def loss():
        nonlocal calls
        calls += 1
        return torch.tensor(bad if calls == 2 else 1.0)

    optimizer.step(evaluate=loss)
    assert same_bits(before, task.bits())
    assert optimizer.last_step.accepted is False
    assert optimizer.last_step.loss_after == optimizer.last_step.loss_before
    assert optimizer.param_groups[0]["skipped"] == 1


@pytest.mark.parametrize("method", METHODS)
def test_trials_that_are_not_finite_are_rejections(method):
    task = Task()
    first = task.loss().item()
    optimizer = method(task.model.parameters(), 1e3)

    def loss():
        value = task.loss()
        return value if value < 5 else value * math.nan

    optimizer.step(evaluate=loss)
    if method is LineSearchMeZO:
        assert optimizer.last_step.accepted
        assert task.loss() < first
    else:  # no trial protects this step; the next one finds that it cannot measure anything
        before = task.bits()
        optimizer.step(evaluate=loss)
        assert same_bits(before, task.bits())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("copy_limit", [0, 2**22])
def test_resuming_is_exact(method, copy_limit):
    def steps(task, optimizer, radii, count):
        for _ in range(count):
            optimizer.step(evaluate=task.loss)
            if method is MeZO:
                radii.step()

    whole = Task()
    optimizer = method(whole.groups(), 0.01, copy_limit=copy_limit)
    schedule = LinearLR(optimizer, 1.0, 0.1, total_iters=10)
    steps(whole, optimizer, schedule, 4)
    file = io.BytesIO()
    torch.save([whole.model.state_dict(), optimizer.state_dict(), schedule.state_dict()], file)
    steps(whole, optimizer, schedule, 5)
    resumed = Task()
    again = method(resumed.groups(), 0.5, copy_limit=copy_limit)
    schedule_again = LinearLR(again, 1.0, 0.1, total_iters=10)
    file.seek(0)
    for target, state in zip([resumed.model, again, schedule_again], torch.load(file, weights_only=True), strict=True):
        target.load_state_dict(state)
    steps(resumed, again, schedule_again, 5)
    assert same_bits(whole.bits(), resumed.bits())
    assert [group["lr"] for group in optimizer.param_groups] == [group["lr"] for group in again.param_groups]


@pytest.mark.parametrize("method", METHODS)
def test_a_step_without_a_loss_is_one_line(method):
    optimizer = method(Task().model.parameters(), 0.01)
    with pytest.raises(ValueError, match="neither evaluate nor closure"):
        optimizer.step()
    with pytest.raises(ValueError, match="has returned no loss"):
        optimizer.step(lambda: None)


@pytest.mark.parametrize("method", [GLD, *METHODS])
def test_losses_within_one_autocast_context_are_of_the_weights_of_their_trials(method):
    within, around = Task(), Task()
    one, other = method(within.model.parameters()), method(around.model.parameters())

    def evaluate():
        with torch.autocast("cpu", torch.bfloat16):
            return around.loss()

    for _ in range(3):
        with torch.autocast("cpu", torch.bfloat16):
            one.step(evaluate=within.loss)
        other.step(evaluate=evaluate)
    assert same_bits(within.bits(), around.bits())
    assert not same_bits(within.bits(), Task().bits())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("copy_limit", [0, 2**22])
@pytest.mark.parametrize("failing_call", [1, 2, 4])
def test_an_exception_leaves_the_parameters_where_they_were(method, copy_limit, failing_call):
    task = Task()
    optimizer = method(task.model.parameters(), 1e-9, copy_limit=copy_limit)
    optimizer.step(evaluate=lambda: torch.tensor(1.0))
    before, calls = task.bits(), 0

    def loss():
        nonlocal calls
        calls += 1
        if calls == failing_call:
            raise KeyboardInterrupt
        return task.loss()

    if failing_call == 4 and method is MeZO:
        optimizer.step(evaluate=loss)
        assert calls == 2
        return
    with pytest.raises(KeyboardInterrupt):
        optimizer.step(evaluate=loss)
    assert same_bits(before, task.bits())


@pytest.mark.parametrize(
    ("method", "argument", "value"),
    [
        (MeZO, "lr", -1.0),
        (MeZO, "epsilon", 0.0),
        (MeZO, "weight_decay", -0.1),
        (MeZO, "copy_limit", -1),
        (MeZO, "noise_device", "gpu"),
        (LineSearchMeZO, "step_size", 0.0),
        (LineSearchMeZO, "c", 1.0),
        (LineSearchMeZO, "shrink", 1.0),
        (LineSearchMeZO, "growth", 0.5),
        (LineSearchMeZO, "max_trials", 0),
        (LineSearchMeZO, "epsilon", -1.0),
    ],
)
def test_an_argument_out_of_range_is_one_clear_line(method, argument, value):
    with pytest.raises(ValueError, match=argument) as error:
        method([nn.Parameter(torch.ones(2))], **{argument: value})
    assert "\n" not in str(error.value)
    assert str(value) in str(error.value)


@pytest.mark.parametrize("method", METHODS)
def test_pickling_keeps_the_settings(method):
    optimizer = pickle.loads(pickle.dumps(method([nn.Parameter(torch.ones(2))], epsilon=0.5)))
    assert optimizer.epsilon == 0.5
    optimizer.step(evaluate=lambda: optimizer.param_groups[0]["params"][0].square().sum())
    assert optimizer.last_step.accepted


def test_what_the_optimizers_say_about_themselves():
    assert traits(MeZO) == traits(GLD) == Traits(needs_gradient=False)
    assert traits(LineSearchMeZO) == Traits(needs_gradient=False, sets_step_size=True)


def test_factors_scale_what_a_schedule_may_set_and_nothing_that_a_search_sets():
    def groups():
        return [{"params": [nn.Parameter(torch.ones(2))], "lr_factor": factor} for factor in (1.0, 0.5)]

    for optimizer in (GLD(groups(), radius=0.4), MeZO(groups(), lr=0.4)):
        scale_learning_rates(optimizer)
        assert [group["lr"] for group in optimizer.param_groups] == [0.4, 0.2]
    # A group with a factor is refused where the step size is found by a search that knows no factors.
    assert "lr_factor" not in LineSearchMeZO(groups()).defaults


@pytest.mark.parametrize("method", METHODS)
def test_the_losses_that_measure_the_slope_are_read_at_once(method, monkeypatch):
    task, reads = Task(), []
    monkeypatch.setattr("optimizers.mezo.read_losses", lambda values: reads.append(len(values)) or read_losses(values))
    method(task.model.parameters()).step(evaluate=task.loss)
    assert reads == [2 if method is MeZO else 3]


def blocks_of(numel):
    """Return how many blocks of memory tensors of a size take at this moment."""
    found = [each for each in gc.get_objects() if type(each) in (torch.Tensor, nn.Parameter)]
    return len({each.untyped_storage().data_ptr() for each in found if each.numel() == numel})


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("dtype", "expected"), [(torch.float32, 1), (torch.bfloat16, 2), (torch.float16, 2)])
def test_copies_are_as_many_as_the_pages_say(method, dtype, expected):
    """In half precision one copy of the parameters, in float32 none."""
    numel = 12_347
    weight = nn.Parameter(torch.randn(numel, generator=torch.Generator().manual_seed(0)).to(dtype))
    optimizer = method([weight], copy_limit=0, epsilon=0.05)
    blocks = []

    def evaluate():
        blocks.append(blocks_of(numel))
        return (weight.detach().float() - 1).square().sum()  # a sum has one entry

    for _ in range(2):
        optimizer.step(evaluate=evaluate)
    assert optimizer.last_step.accepted
    assert set(blocks[1:]) == {expected}
