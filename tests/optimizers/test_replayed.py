"""A step of a plain loop whose trials see the same dropout masks, and which moves running statistics once."""

from __future__ import annotations

import math
import random
import warnings
from functools import partial

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F

from optimizers import SGDSLS, AdamSLS, ParabolicAdam, SaLSA, replayed, traits
from optimizers.step_contract import ReplayedClosure
from tests.optimizers.all_optimizers import OPTIMIZERS


def small_cnn() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.3), nn.Flatten(), nn.Linear(144, 2)
    )


def images(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    pixels = torch.randn(16, 1, 8, 8, generator=generator)
    return pixels, (pixels.mean((1, 2, 3)) > 0).long()


def callables(model, optimizer, step):
    inputs, labels = images(step)

    def loss_now():
        return F.cross_entropy(model(inputs), labels)

    def closure():
        optimizer.zero_grad()
        loss = loss_now()
        loss.backward()
        return loss

    return closure, loss_now


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_buffers_after_a_step_are_those_of_one_forward_pass(name):
    model, twin = small_cnn(), small_cnn()
    optimizer = OPTIMIZERS[name](model.parameters())
    for step in range(3):
        twin.load_state_dict(model.state_dict())
        closure, evaluate = replayed(*callables(model, optimizer, step), model)
        state = torch.get_rng_state()
        kwargs = {"evaluate": evaluate} if hasattr(optimizer, "last_step") else {}
        optimizer.step(closure, **kwargs)
        after, random = dict(model.named_buffers()), torch.get_rng_state()
        torch.set_rng_state(state)
        if traits(optimizer).needs_gradient:
            twin(images(step)[0])
            for key, buffer in twin.named_buffers():
                assert torch.equal(buffer, after[key]), key
            assert torch.equal(random, torch.get_rng_state())
        else:  # the first forward pass is at a perturbed point for some of them
            assert after["1.num_batches_tracked"] == step + 1
        torch.set_rng_state(random)


@pytest.mark.parametrize("make", [AdamSLS, SaLSA, SGDSLS, partial(ParabolicAdam, total_steps=60)])
def test_dropout_does_not_hinder_a_search(make):
    """Under masks that differ from trial to trial AdamSLS falls to a step size of 1e-10."""
    model = small_cnn()
    optimizer = make(model.parameters())
    losses = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for step in range(60):
            closure, evaluate = replayed(*callables(model, optimizer, step % 4), model)
            losses.append(float(optimizer.step(closure, evaluate=evaluate).detach()))
    assert sum(losses[-4:]) < 0.7 * sum(losses[:4])
    assert optimizer.param_groups[0]["lr"] > 1e-6


@pytest.mark.parametrize("make", [AdamSLS, SaLSA])
def test_searches_that_keep_failing_say_once_what_to_check(make):
    """`evaluate` computes another loss than the closure, a larger one."""
    model = small_cnn().eval()
    optimizer = make(model.parameters())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(40):
            closure, evaluate = callables(model, optimizer, 0)
            optimizer.step(closure, evaluate=lambda evaluate=evaluate: evaluate() + 1.0)
    told = [str(each.message) for each in caught if "in a row found no step size" in str(each.message)]
    assert len(told) == 1
    assert "optimizers.replayed(closure, evaluate, model)" in told[0]
    assert math.isfinite(optimizer.param_groups[0]["lr"])


@pytest.mark.parametrize("loss", [0.1, torch.tensor(0.1, dtype=torch.float64)])
def test_a_loss_is_averaged_over_ranks_where_the_parameters_are(monkeypatch, loss):
    """NCCL takes no tensor of the CPU, as a closure may return, or make of its loss by `item`."""
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    devices = []
    monkeypatch.setattr(dist, "all_reduce", lambda mean: devices.append(mean.device.type))
    replayed_closure = ReplayedClosure(lambda: loss, [nn.Parameter(torch.ones(2, device="meta"))])
    replayed_closure.first()
    averaged = [replayed_closure.start(), replayed_closure()]
    assert devices == ["meta", "meta"]
    assert all(each.dtype == torch.float64 for each in averaged)


def test_draws_of_any_generator_are_those_of_the_first_run():
    """Speech models of transformers draw their masks and the layers that they leave out from numpy, some from Python.

    Each generator goes on as if there had been one run, and what is drawn between two runs is not drawn again.
    """
    model = nn.Sequential(nn.Linear(2, 1))
    model[0].torch, model.python = torch.Generator(), random.Random()
    model.numpy, model[0].old_numpy = np.random.default_rng(0), np.random.RandomState()
    bits = model.numpy.bit_generator.state

    def loss_now():
        global_draws = torch.rand(()).item(), random.random(), np.random.rand(), np.random.randn()
        own_draws = torch.rand((), generator=model[0].torch).item(), model.python.random(), model.numpy.normal()
        return torch.tensor([*global_draws, *own_draws, model[0].old_numpy.randn()])

    def seed():
        for generator in (torch.manual_seed, model[0].torch.manual_seed, random.seed, model.python.seed):
            generator(0)
        np.random.seed(0)
        model[0].old_numpy.seed(0)
        model.numpy.bit_generator.state = bits

    seed()
    first, between, after = loss_now(), loss_now(), loss_now()
    seed()
    closure, evaluate = replayed(loss_now, loss_now, model)
    assert torch.equal(closure(), first)
    assert torch.equal(evaluate(), first)
    assert torch.equal(loss_now(), between)
    assert torch.equal(evaluate(), first)
    assert torch.equal(closure(), first)
    assert torch.equal(loss_now(), after)
