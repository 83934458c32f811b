"""Line search optimizers in plain PyTorch loops: closures alone, dropout, autocast, scalers, compiled models, ranks."""

from __future__ import annotations

import warnings
from functools import partial

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from optimizers import SGDSLS, AdamSLS, ParabolicAdam, SaLSA, replayed
from tests.ranks import on_ranks

# The first step size is too large for this problem, so that there is something to search for.
every_method = pytest.mark.parametrize(
    "make",
    [partial(method, initial_step_size=5.0) for method in (SGDSLS, AdamSLS, SaLSA, ParabolicAdam)],
    ids=lambda make: make.func.__name__,
)


def network(dropout=0.2):
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Dropout(dropout), nn.Linear(16, 2))


def batches(number, rows=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(number):
        inputs = torch.randn(rows, 6, generator=generator)
        yield inputs, (inputs[:, 0] * inputs[:, 1] > 0).long()


def closure_of(model, optimizer, inputs, labels, set_to_none=True):
    """The closure of a step on a batch."""

    def closure():
        optimizer.zero_grad(set_to_none=set_to_none)
        loss = F.cross_entropy(model(inputs), labels)
        loss.backward()
        return loss

    return closure


def train_with_closure_alone(make, set_to_none=True, steps=12):
    model = network()
    optimizer = make(model.parameters())
    trace = []
    for inputs, labels in batches(steps):
        loss = optimizer.step(closure_of(model, optimizer, inputs, labels, set_to_none=set_to_none))
        trace.append((loss.item(), optimizer.last_step.evaluations, optimizer.param_groups[0]["lr"]))
    return trace, [p.detach().clone() for p in model.parameters()], torch.get_rng_state()


def train_with_evaluate(make, without_closure=False, give_loss=True, steps=12):
    model = network()
    optimizer = make(model.parameters())
    trace = []
    for inputs, labels in batches(steps):
        before = torch.get_rng_state()

        def compute(inputs=inputs, labels=labels):
            return F.cross_entropy(model(inputs), labels)

        def closure():
            optimizer.zero_grad()
            loss = compute()
            loss.backward()
            return loss

        def evaluate():
            after = torch.get_rng_state()
            torch.set_rng_state(before)  # noqa: B023
            loss = compute()
            torch.set_rng_state(after)
            return loss

        if without_closure:
            loss = closure()
            loss = optimizer.step(evaluate=evaluate, loss=loss if give_loss else None)
        else:
            loss = optimizer.step(closure, evaluate=evaluate)
        trace.append((loss.item(), optimizer.last_step.evaluations, optimizer.param_groups[0]["lr"]))
    return trace, [p.detach().clone() for p in model.parameters()], torch.get_rng_state()


def assert_same_run(one, other):
    assert one[0] == other[0]
    assert all(torch.equal(a, b) for a, b in zip(one[1], other[1], strict=True))
    assert torch.equal(one[2], other[2])


@every_method
@pytest.mark.parametrize("set_to_none", [True, False])
def test_closure_alone_decides_like_evaluate_under_dropout(make, set_to_none):
    alone = train_with_closure_alone(make, set_to_none)
    assert_same_run(alone, train_with_evaluate(make))
    # ParabolicAdam searches in 6 of the 12 steps.
    assert sum(evaluations for _, evaluations, _ in alone[0]) > (6 if make.func is ParabolicAdam else 12)


@every_method
@pytest.mark.parametrize("give_loss", [True, False])
def test_gradients_and_loss_without_a_closure(make, give_loss):
    assert_same_run(train_with_evaluate(make, without_closure=True, give_loss=give_loss), train_with_evaluate(make))


def test_generator_stands_where_one_forward_leaves_it_and_masks_differ_between_steps():
    model = network()
    optimizer = AdamSLS(model.parameters(), bracket=None, initial_step_size=10.0)
    masks: list[list[torch.Tensor]] = []
    model[2].register_forward_hook(lambda module, args, output: masks[-1].append((output == 0) & (args[0] != 0)))
    for inputs, labels in batches(3):
        masks.append([])
        state = torch.get_rng_state()
        model(inputs)
        after_one_forward = torch.get_rng_state()
        torch.set_rng_state(state)
        optimizer.step(closure_of(model, optimizer, inputs, labels))
        assert torch.equal(torch.get_rng_state(), after_one_forward)
        assert len(masks[-1]) == optimizer.last_step.evaluations + 2
        assert all(torch.equal(mask, masks[-1][0]) for mask in masks[-1])
    assert len(masks[0]) > 3
    assert not torch.equal(masks[0][0], masks[1][0])


@every_method
def test_a_closure_that_accumulates_is_refused(make):
    """Lightning's closure clears the gradients of the first micro-batch alone, and returns the last one's loss."""
    model = network()
    empty = nn.Parameter(torch.zeros(0))
    empty.grad = torch.zeros(0)
    optimizer = make([*model.parameters(), empty])
    (first_inputs, first_labels), (inputs, labels) = batches(2)

    def closure():
        loss = F.cross_entropy(model(inputs), labels) / 2
        loss.backward()
        return loss

    (F.cross_entropy(model(first_inputs), first_labels) / 2).backward()
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(
        ValueError, match=r"^\w+: the closure adds to gradients that are there already, as those of acc"
    ):
        optimizer.step(closure)
    assert all(map(torch.equal, model.parameters(), before))
    # Gradients that were cleared before the step may be added to.
    optimizer.zero_grad(set_to_none=False)
    optimizer.step(closure)
    optimizer.zero_grad()
    optimizer.step(closure)
    assert not any(map(torch.equal, model.parameters(), before))


def test_gradients_that_are_nan_by_themselves_are_no_sign_of_accumulation():
    model = network(dropout=0.0)
    optimizer = SaLSA(model.parameters())

    def closure(inputs, labels, scale):
        optimizer.zero_grad(set_to_none=False)
        loss = F.cross_entropy(model(inputs), labels) * scale
        loss.backward()
        return loss

    for step, (inputs, labels) in enumerate(batches(4)):
        optimizer.step(partial(closure, inputs, labels, torch.nan if step == 2 else 1.0))
        assert optimizer.last_step.accepted == (step != 2)


def test_gradients_of_the_start_are_left_in_place():
    model = network(dropout=0.0)
    optimizer = SGDSLS(model.parameters(), initial_step_size=10.0)
    ((inputs, labels),) = batches(1)
    expected = torch.autograd.grad(F.cross_entropy(model(inputs), labels), list(model.parameters()))
    optimizer.step(closure_of(model, optimizer, inputs, labels, set_to_none=False))
    assert optimizer.last_step.backtracks > 0
    for p, grad in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, grad)


@every_method
def test_trials_under_one_autocast_context_see_the_weights_of_the_trial(make):
    model = network(dropout=0.0)
    optimizer = make(model.parameters(), relative_tolerance=1e-4)
    for inputs, labels in batches(4):
        seen = []

        def loss_now(inputs=inputs, labels=labels):
            return F.cross_entropy(model(inputs).float(), labels)

        def closure():
            optimizer.zero_grad()
            loss = loss_now()
            loss.backward()
            return loss

        def evaluate():
            loss = loss_now()
            seen.append(([p.detach().clone() for p in model.parameters()], loss.item()))  # noqa: B023
            return loss

        with torch.autocast("cpu", torch.bfloat16):
            optimizer.step(closure, evaluate=evaluate)
        assert seen
        here = [p.detach().clone() for p in model.parameters()]
        with torch.no_grad():
            for values, loss in seen:
                for p, value in zip(model.parameters(), values, strict=True):
                    p.copy_(value)
                with torch.autocast("cpu", torch.bfloat16):
                    assert loss_now().item() == loss
            for p, value in zip(model.parameters(), here, strict=True):
                p.copy_(value)


def test_half_precision_losses_are_compared_in_float32():
    parameter = nn.Parameter(torch.tensor([4.0, 2.0], dtype=torch.bfloat16))
    optimizer = SGDSLS([parameter])

    def closure():
        optimizer.zero_grad()
        loss = parameter.square().sum()
        assert loss.dtype == torch.bfloat16
        loss.backward()
        return loss

    losses = [optimizer.step(closure).item() for _ in range(30)]
    assert losses[-1] < 1e-3 * losses[0]


@every_method
def test_a_gradient_scaler_hands_over_unscaled_gradients(make):
    plain = train_with_evaluate(make, steps=6)
    model = network()
    optimizer = make(model.parameters())
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    trace = []
    for inputs, labels in batches(6):
        before = torch.get_rng_state()
        optimizer.zero_grad()
        loss = F.cross_entropy(model(inputs), labels)
        scaler.scale(loss).backward()

        def evaluate(inputs=inputs, labels=labels, before=before):
            after = torch.get_rng_state()
            torch.set_rng_state(before)
            value = F.cross_entropy(model(inputs), labels)
            torch.set_rng_state(after)
            return value

        scaler.step(optimizer, evaluate=evaluate, loss=loss)
        scaler.update()
        trace.append((loss.item(), optimizer.last_step.evaluations, optimizer.param_groups[0]["lr"]))
    assert [evaluations for _, evaluations, _ in trace] == [evaluations for _, evaluations, _ in plain[0]]
    for p, expected in zip(model.parameters(), plain[1], strict=True):
        torch.testing.assert_close(p.detach(), expected, rtol=1e-4, atol=1e-6)


@every_method
def test_a_closure_that_scales_and_its_replayed_evaluation_serve_a_gradient_scaler(make):
    """The float16 loop of docs/line_searches.md: the steps are those without a scaler, with the same dropout masks."""

    def train(scale):
        model = network()
        optimizer = make(model.parameters())
        scaler = torch.amp.GradScaler("cpu", init_scale=scale, enabled=scale > 1)
        losses = []
        for inputs, labels in batches(6):

            def loss_now(inputs=inputs, labels=labels):
                return F.cross_entropy(model(inputs), labels)

            def closure(loss_now=loss_now):
                optimizer.zero_grad()
                loss = loss_now()
                scaler.scale(loss).backward()
                return loss

            closure, evaluate = replayed(closure, loss_now, model)
            if scaler.is_enabled():
                loss = closure()
                scaler.step(optimizer, evaluate=evaluate, loss=loss)
                scaler.update()
            else:
                loss = optimizer.step(closure, evaluate=evaluate)
            losses.append((loss.item(), optimizer.param_groups[0]["lr"]))
        return losses

    for scaled, plain in zip(train(scale=2.0**10), train(scale=1.0), strict=True):
        assert scaled == pytest.approx(plain, rel=1e-4)


@every_method
def test_schedulers_read_and_write_the_step_size(make):
    model = network(dropout=0.0)
    optimizer = make(model.parameters())
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.5)
    for inputs, labels in batches(3):
        optimizer.step(closure_of(model, optimizer, inputs, labels))
        found = optimizer.param_groups[0]["lr"]
        scheduler.step()
        assert optimizer.param_groups[0]["lr"] == 0.5 * found


@pytest.mark.slow
def test_compiled_models_decide_like_plain_ones():
    def train(compiled):
        model = network(dropout=0.0)
        forward = torch.compile(model, backend="aot_eager") if compiled else model
        optimizer = AdamSLS(model.parameters())
        trace = []
        for inputs, labels in batches(6):

            def closure(inputs=inputs, labels=labels):
                optimizer.zero_grad()
                loss = F.cross_entropy(forward(inputs), labels)
                loss.backward()
                return loss

            def evaluate(inputs=inputs, labels=labels):
                return F.cross_entropy(forward(inputs), labels)

            optimizer.step(closure, evaluate=evaluate)
            trace.append(optimizer.last_step)
        return trace

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled = train(compiled=True)
    for one, other in zip(compiled, train(compiled=False), strict=True):
        assert one.evaluations == other.evaluations
        assert one.loss_before == pytest.approx(other.loss_before, rel=1e-5)
        assert one.step_size == pytest.approx(other.step_size)


def _train_on_a_rank(rank, in_buckets):
    dist.init_process_group("gloo")
    model = DistributedDataParallel(network(dropout=0.0), gradient_as_bucket_view=in_buckets)
    optimizer = AdamSLS(model.parameters(), initial_step_size=5.0)
    trace = []
    for inputs, labels in batches(8, seed=10 + rank):  # another half of the batch on each rank
        optimizer.step(closure_of(model, optimizer, inputs, labels))
        trace.append((optimizer.last_step.loss_before, optimizer.last_step.evaluations, optimizer.last_step.step_size))
    return trace, [p.detach().clone() for p in model.parameters()]


@pytest.mark.distributed
@pytest.mark.parametrize("in_buckets", [False, True])
def test_two_ranks_with_closures_alone_take_the_same_decisions(in_buckets):
    """Gradients that are views of DDP's buckets would be those of the last trial."""
    (one, ours), (other, theirs) = on_ranks(_train_on_a_rank, in_buckets)
    assert one == other
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))

    model = network(dropout=0.0)
    optimizer = AdamSLS(model.parameters(), initial_step_size=5.0)
    for index, halves in enumerate(zip(batches(8, seed=10), batches(8, seed=11), strict=True)):
        inputs = torch.cat([inputs for inputs, _ in halves])
        labels = torch.cat([labels for _, labels in halves])
        optimizer.step(closure_of(model, optimizer, inputs, labels))
        assert optimizer.last_step.evaluations == one[index][1]
        assert optimizer.last_step.loss_before == pytest.approx(one[index][0], rel=1e-4)
