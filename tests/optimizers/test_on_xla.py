"""Optimizers and closures on an XLA device: the decisions of a CPU, the same masks in trials, no graph per step.

They run with `make test-xla`, in an environment with torch_xla; its CPU device stands in for a TPU.
"""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from optimizers import GLD, SGDSLS, AdamSLS, AdamWL2SP, LineSearchMeZO, MeZO, ParabolicAdam, SaLSA
from optimizers.random_state import ReplayedDraws

torch_xla = pytest.importorskip("torch_xla", reason="torch_xla is not installed (make test-xla)")
from torch_xla.debug import metrics  # noqa: E402

pytestmark = pytest.mark.xla

# Before any backward pass: autograd (torch 2.9) counts its devices once, and an XLA device made later fails in it.
DEVICE = torch_xla.device()
STEPS = 10
METHODS = {
    "sgd": SGDSLS,
    "adam": AdamSLS,
    "adam, momentum": partial(AdamSLS, condition="momentum"),
    "salsa": partial(SaLSA, weight_decay=0.01),
    "parabolic": partial(ParabolicAdam, total_steps=STEPS),
    "l2sp": partial(AdamWL2SP, lr=1e-2),
    "mezo": MeZO,
    "line search mezo": LineSearchMeZO,
    "gld": partial(GLD, num_radii=3),
}


def train(method, device, dropout=0.0, dtype=torch.float32, after_step=lambda: None, steps=STEPS):
    """Return the losses, the numbers of evaluations and the parameters of a few steps of a small network."""
    torch.manual_seed(0)
    layers = nn.Linear(6, 16), nn.Tanh(), nn.Dropout(dropout), nn.Linear(16, 2)
    model = nn.Sequential(*layers).to(device, dtype)
    inputs = torch.randn(steps, 8, 6, dtype=dtype)
    labels = (inputs[..., 0] > 0).long().to(device)
    inputs = inputs.to(device)
    optimizer = METHODS[method](model.parameters())
    trace = []
    for batch, targets in zip(inputs.unbind(), labels.unbind(), strict=True):
        draws = ReplayedDraws([batch.device])

        def evaluate(batch=batch, targets=targets, draws=draws):
            with draws.replayed():
                return F.cross_entropy(model(batch), targets)

        def closure(evaluate=evaluate):
            optimizer.zero_grad()
            loss = evaluate()
            loss.backward()
            return loss

        if method == "l2sp":
            trace.append((float(optimizer.step(closure)), 1))
        else:
            optimizer.step(closure, evaluate=evaluate)
            record = optimizer.last_step
            trace.append((record.loss_before, record.evaluations))
        after_step()
    return trace, [parameter.detach().cpu() for parameter in model.parameters()]


@pytest.mark.parametrize("method", METHODS)
def test_a_device_decides_like_a_cpu(method):
    (expected, there), (found, here) = (train(method, device, dtype=torch.float64) for device in ("cpu", DEVICE))
    assert [evaluations for _, evaluations in found] == [evaluations for _, evaluations in expected]
    for (loss, _), (other, _) in zip(found, expected, strict=True):
        assert loss == pytest.approx(other, rel=1e-3)
    for one, other in zip(here, there, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_later_steps_compile_no_graph(method):
    # Each of GLD's units has a graph for staying and one for moving, and has to have done both.
    steps, kinds_seen = (24, 15) if method == "gld" else (STEPS, 5)
    compiled = []

    def count():
        torch_xla.sync()
        data = metrics.metric_data("CompileTime")
        compiled.append(0 if data is None else data[0])

    train(method, DEVICE, dropout=0.3, after_step=count, steps=steps)
    assert compiled[-1] > 0
    assert compiled[kinds_seen] == compiled[-1], compiled


def test_draws_of_the_device_are_replayed():
    draws = ReplayedDraws([DEVICE])
    masks = []
    for _ in range(3):
        with draws.replayed():
            masks.append(F.dropout(torch.ones(100, device=DEVICE), 0.5).cpu())
    assert 10 < int((masks[0] == 0).sum()) < 90
    assert all(torch.equal(mask, masks[0]) for mask in masks)
    assert not torch.equal(F.dropout(torch.ones(100, device=DEVICE), 0.5).cpu(), masks[0])
