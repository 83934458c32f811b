"""Optimizers on a CUDA device: the decisions of a CPU, and one synchronisation per trial."""

from __future__ import annotations

import math
import warnings
from functools import partial

import pytest
import torch
from lightning.fabric.utilities.optimizer import _optimizers_to_device
from torch import nn
from torch.nn import functional as F

from optimizers import SGDSLS, AdamSLS, AdamWL2SP, ParabolicAdam, SaLSA

pytestmark = pytest.mark.gpu

METHODS = {
    "sgd": SGDSLS,
    "adam": AdamSLS,
    "adam, momentum": partial(AdamSLS, condition="momentum"),
    "adam, heavy ball": partial(AdamSLS, momentum="heavy_ball", weight_decay=0.01),
    "salsa": partial(SaLSA, weight_decay=0.01),
    "parabolic": partial(ParabolicAdam, total_steps=40),
}


class Regression:
    """A small network and its data on a device."""

    def __init__(self, device, dtype=torch.float32):
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 2)).to(device, dtype)
        self.inputs = torch.randn(20, 8, 6, dtype=dtype).to(device)
        self.labels = (self.inputs[..., 0] > 0).long()

    def callables(self, optimizer, step):
        def loss_now():
            return F.cross_entropy(self.model(self.inputs[step]), self.labels[step])

        def closure():
            optimizer.zero_grad()
            loss = loss_now()
            loss.backward()
            return loss

        return closure, loss_now


@pytest.mark.parametrize("method", METHODS)
def test_a_device_decides_like_a_cpu(method):
    traces = []
    for device in ("cpu", "cuda"):
        problem = Regression(device, torch.float64)
        optimizer = METHODS[method](problem.model.parameters())
        records = []
        for step in range(20):
            closure, evaluate = problem.callables(optimizer, step)
            optimizer.step(closure, evaluate=evaluate)
            records.append(optimizer.last_step)
        traces.append(records)
    for one, other in zip(*traces, strict=True):
        assert one.evaluations == other.evaluations
        assert one.loss_before == pytest.approx(other.loss_before, rel=1e-6)
        assert one.step_size == pytest.approx(other.step_size)


@pytest.mark.parametrize("method", METHODS)
def test_one_synchronisation_per_trial_and_none_besides(method):
    problem = Regression("cuda")
    optimizer = METHODS[method](problem.model.parameters())
    counted = []
    for step in range(20):
        closure, evaluate = problem.callables(optimizer, step)
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                optimizer.step(closure, evaluate=evaluate)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        synchronisations = sum("synchroniz" in str(warning.message) for warning in caught)
        counted.append((synchronisations, optimizer.last_step.evaluations))
    # The first step also makes its state.
    assert all(synchronisations == trials for synchronisations, trials in counted[1:])
    assert method != "salsa" or any(trials == 0 for _, trials in counted)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_harms_nothing(method, value):
    problem = Regression("cuda")
    optimizer = METHODS[method](problem.model.parameters())
    for step in range(20):
        closure, evaluate = problem.callables(optimizer, step)

        def spoiled(closure=closure, step=step):
            loss = closure()
            if step in (2, 15):
                problem.model[0].weight.grad[0, 0] = value
            return loss

        before = [p.detach().clone() for p in problem.model.parameters()]
        optimizer.step(spoiled, evaluate=evaluate)
        if step in (2, 15):
            assert not optimizer.last_step.accepted
        if step == 2:
            assert all(torch.equal(p, b) for p, b in zip(problem.model.parameters(), before, strict=True))
    assert optimizer.param_groups[0]["skipped"] >= 1
    assert all(torch.isfinite(p).all() for p in problem.model.parameters())
    assert all(torch.isfinite(value).all() for state in optimizer.state.values() for value in state.values())


@pytest.mark.parametrize("method", [AdamWL2SP, AdamSLS])
def test_anchors_kept_on_the_cpu_return_there_when_a_trainer_has_moved_them(method):
    problem = Regression("cuda")
    groups = [{"params": problem.model.parameters(), "anchor_decay": 0.1, "anchor_device": "cpu"}]
    optimizer = method(groups)
    _optimizers_to_device([optimizer], torch.device("cuda"))
    closure, evaluate = problem.callables(optimizer, 0)
    if method is AdamWL2SP:
        optimizer.step(closure)
    else:
        optimizer.step(closure, evaluate=evaluate)
    assert all(state["anchor"].device.type == "cpu" for state in optimizer.state.values())


def test_closures_replay_the_generator_of_the_device():
    problem = Regression("cuda")
    problem.model.insert(2, nn.Dropout(0.5))
    optimizer = AdamSLS(problem.model.parameters(), initial_step_size=5.0)
    masks = []
    problem.model[2].register_forward_hook(lambda module, args, output: masks.append(output == 0))
    optimizer.step(problem.callables(optimizer, 0)[0])
    assert len(masks) > 2
    assert all(torch.equal(mask, masks[0]) for mask in masks)
