"""AdamWL2SP is torch's AdamW plus decay towards the pretrained values, and keeps those over a restart."""

from __future__ import annotations

import copy
import io
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from optimizers import AdamSLS, AdamWL2SP, ParabolicAdam, ParamGroups
from tests.architectures import tiny_model


def run(params: list[Tensor], optimizer: torch.optim.Optimizer, steps: int, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        for param in params:
            param.grad = torch.randn(param.shape, generator=generator).to(param)
        optimizer.step()


def some_params(dtype: torch.dtype = torch.float32) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(1)
    return [nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in [(3, 2), (4,), (), (2, 0)]]


@settings(max_examples=60)
@given(
    lr=st.floats(0, 1),
    betas=st.tuples(st.floats(0, 0.99), st.floats(0, 0.999)),
    eps=st.floats(1e-10, 1e-2),
    weight_decay=st.floats(0, 1),
    amsgrad=st.booleans(),
    maximize=st.booleans(),
    foreach=st.sampled_from([None, True, False]),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
)
def test_without_anchors_it_is_adamw_bit_for_bit(dtype: torch.dtype, **options: Any) -> None:
    ours, theirs = some_params(dtype), some_params(dtype)
    run(ours, AdamWL2SP([{"params": ours, "new": True}], **options), steps=4)
    run(theirs, torch.optim.AdamW(theirs, **options), steps=4)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("amsgrad", [False, True])
@pytest.mark.parametrize("anchor_device", ["parameter", "cpu"])
def test_the_formula_in_numpy(amsgrad: bool, anchor_device: str) -> None:
    torch.manual_seed(3)
    pretrained = nn.Parameter(torch.randn(5, dtype=torch.float64))
    new = nn.Parameter(torch.randn(5, dtype=torch.float64))
    lr, beta1, beta2, eps, anchor_decay, weight_decay = 0.1, 0.8, 0.95, 1e-6, 0.5, 0.3
    optimizer = AdamWL2SP(
        [{"params": [pretrained, new], "new": (False, True)}],
        lr=lr,
        betas=(beta1, beta2),
        eps=eps,
        anchor_decay=anchor_decay,
        weight_decay=weight_decay,
        amsgrad=amsgrad,
        anchor_device=anchor_device,
    )
    expected = [pretrained.detach().numpy().copy(), new.detach().numpy().copy()]
    start = expected[0].copy()
    m, v, largest = np.zeros((2, 5)), np.zeros((2, 5)), np.zeros((2, 5))
    for t in range(1, 7):
        gradients = [torch.randn(5, dtype=torch.float64) for _ in range(2)]
        pretrained.grad, new.grad = gradients
        assert optimizer.step() is None  # no loss where there is no closure
        expected[0] = expected[0] - lr * anchor_decay * (expected[0] - start)
        expected[1] = expected[1] - lr * weight_decay * expected[1]
        for i in range(2):
            g = gradients[i].numpy()
            m[i] = beta1 * m[i] + (1 - beta1) * g
            v[i] = beta2 * v[i] + (1 - beta2) * g**2
            largest[i] = np.maximum(largest[i], v[i])
            root = np.sqrt((largest[i] if amsgrad else v[i]) / (1 - beta2**t))
            expected[i] = expected[i] - lr * m[i] / (1 - beta1**t) / (root + eps)
    np.testing.assert_allclose(pretrained.detach().numpy(), expected[0], rtol=1e-12)
    np.testing.assert_allclose(new.detach().numpy(), expected[1], rtol=1e-12)


def test_a_pretrained_parameter_without_anchor_decay_does_not_decay_at_all() -> None:
    ours, theirs = some_params(), some_params()
    optimizer = AdamWL2SP(ours, anchor_decay=0.0, weight_decay=0.9)
    run(ours, optimizer, steps=3)
    run(theirs, torch.optim.AdamW(theirs, weight_decay=0.0), steps=3)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert not any("anchor" in state for state in optimizer.state.values())


@pytest.mark.parametrize("anchor_device", ["parameter", "cpu"])
def test_a_resumed_run_decays_towards_the_pretrained_values(anchor_device: str) -> None:
    def make(params: list[nn.Parameter]) -> AdamWL2SP:
        groups = [{"params": params[:2]}, {"params": params[2:], "new": True}]
        return AdamWL2SP(groups, lr=0.1, anchor_decay=0.5, anchor_device=anchor_device)  # type: ignore[arg-type]

    straight = some_params()
    start = [param.detach().clone() for param in straight]
    optimizer = make(straight)
    run(straight, optimizer, steps=3, seed=0)
    buffer = io.BytesIO()
    torch.save({"params": straight, "optimizer": optimizer.state_dict()}, buffer)
    run(straight, optimizer, steps=20, seed=5)

    buffer.seek(0)
    saved = torch.load(buffer, weights_only=False)
    resumed = [nn.Parameter(param.detach().clone()) for param in saved["params"]]
    restored = make(resumed)  # takes the present values as anchors, until the state says which they are
    restored.load_state_dict(saved["optimizer"])
    assert all(torch.equal(restored.state[p]["anchor"], a) for p, a in zip(resumed[:2], start[:2], strict=True))
    run(resumed, restored, steps=20, seed=5)
    assert all(torch.equal(a, b) for a, b in zip(straight, resumed, strict=True))


def test_a_state_without_anchors_is_refused_and_nothing_loaded() -> None:
    params = some_params()
    plain = AdamWL2SP(params, anchor_decay=0.0)
    run(params, plain, steps=1)
    state = plain.state_dict()
    for group in state["param_groups"]:
        group["anchor_decay"] = 0.1
    optimizer = AdamWL2SP(params, anchor_decay=0.2)
    with pytest.raises(ValueError, match="holds no anchor for parameter 0"):
        optimizer.load_state_dict(state)
    assert optimizer.param_groups[0]["anchor_decay"] == 0.2


def test_parameters_without_gradient_stay_where_they_are() -> None:
    params = some_params()
    before = [param.detach().clone() for param in params]
    optimizer = AdamWL2SP(params, lr=0.5, anchor_decay=0.5)
    with torch.no_grad():
        params[0].add_(1.0)
    params[1].grad = torch.ones_like(params[1])
    optimizer.step()
    assert torch.equal(params[0], before[0] + 1.0)
    assert not torch.equal(params[1], before[1])


def test_a_sparse_gradient_is_refused_before_anything_moves() -> None:
    weight, table = nn.Parameter(torch.ones(3)), nn.Embedding(4, 3, sparse=True)
    optimizer = AdamWL2SP([weight, table.weight], lr=0.1, anchor_decay=0.5)
    with torch.no_grad():
        weight.add_(1.0)
    (table(torch.tensor([1])) * weight).sum().backward()
    with pytest.raises(ValueError, match="AdamWL2SP does not take sparse gradients"):
        optimizer.step()
    assert torch.equal(weight, torch.full((3,), 2.0))


def test_groups_of_a_model_anchor_the_matrices_that_are_pretrained() -> None:
    model = tiny_model("bert")
    new = {"classifier.weight", "classifier.bias"}
    optimizer = AdamWL2SP(ParamGroups()(model, new), anchor_decay=0.1)
    anchored = {name for name, param in model.named_parameters() if "anchor" in optimizer.state[param]}
    assert anchored == {name for name, param in model.named_parameters() if name not in new and param.ndim > 1}
    kept = sum(state["anchor"].numel() for state in optimizer.state.values() if "anchor" in state)
    assert kept == sum(param.numel() for name, param in model.named_parameters() if name in anchored)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": -1.0}, "lr: -1.0 is not allowed"),
        ({"anchor_decay": -0.1}, "anchor_decay: -0.1 is not allowed"),
        ({"weight_decay": float("nan")}, "weight_decay: nan is not allowed"),
        ({"betas": (0.9, 1.0)}, "betas: beta2: 1.0 is not allowed"),
        ({"anchor_device": "gpu"}, "anchor_device: 'gpu' is not allowed; one of parameter, cpu"),
    ],
)
def test_settings_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AdamWL2SP(some_params(), **options)


@pytest.mark.parametrize("make", [AdamWL2SP, AdamSLS, ParabolicAdam])
def test_a_wrong_number_of_flags_is_refused(make: Any) -> None:
    params = some_params()
    optimizer = make(params[:1])
    with pytest.raises(ValueError, match="new: 1 flags for 3 parameters"):
        optimizer.add_param_group({"params": params[1:], "new": (True,)})
    assert len(optimizer.param_groups) == 1


@pytest.mark.gpu
def test_anchors_on_the_cpu_serve_parameters_on_the_gpu() -> None:
    results = []
    for anchor_device in ("parameter", "cpu"):
        params = [nn.Parameter(param.detach().cuda()) for param in some_params()]
        optimizer = AdamWL2SP(params, lr=0.1, anchor_decay=0.5, anchor_device=anchor_device)  # type: ignore[arg-type]
        run(params, optimizer, steps=3)
        optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        run(params, optimizer, steps=3)
        assert {state["anchor"].is_cuda for state in optimizer.state.values()} == {anchor_device == "parameter"}
        results.append(params)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
