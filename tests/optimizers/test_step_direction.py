"""StepDirection: the direction of an optimizer's step, by a copy of it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from optimizers import step_direction
from optimizers.step_direction import StepDirection, wide_inner_product


def test_a_direction_shows_in_spite_of_the_rounding_of_bfloat16() -> None:
    torch.manual_seed(0)
    rough, exact = (nn.Parameter(torch.ones(500, dtype=dtype)) for dtype in (torch.bfloat16, torch.float32))
    rough.grad = torch.randn(500).bfloat16()
    exact.grad = rough.grad.float()
    (found,), (expected,) = (StepDirection(AdamW([each], lr=1e-5), [1.0]).find() for each in (rough, exact))
    assert (found - expected).norm() < 0.02 * expected.norm()


@pytest.mark.parametrize("kind", [SGD, partial(AdamW, weight_decay=0.0), partial(AdamW, weight_decay=0.0, fused=True)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gradient_of_zero_has_a_direction_of_zero(kind: Callable[..., Optimizer], dtype: torch.dtype) -> None:
    """No rate moves the parameters, and none that is tried is beyond what float32 holds."""
    weight = nn.Parameter(torch.ones(2, dtype=dtype))
    weight.grad = torch.zeros(2, dtype=dtype)
    direction = StepDirection(kind([weight], lr=1e-3), [1.0])
    assert direction.find()[0].tolist() == [0.0, 0.0]
    weight.grad += 1
    assert direction.find()[0].tolist() == pytest.approx([1.0, 1.0], rel=0.01)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_an_inner_product_of_half_precision_is_that_of_float32(dtype: torch.dtype) -> None:
    small = torch.full((300,), 1e-4, dtype=dtype)
    found = wide_inner_product(small, small)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(300 * small[0].item() ** 2, rel=1e-5)


def test_a_copy_of_an_optimizer_calls_none_of_its_hooks() -> None:
    weight = nn.Parameter(torch.ones(2))
    weight.grad = torch.ones(2)
    optimizer, calls = SGD([weight], lr=1.0), []
    optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))
    StepDirection(optimizer, [1.0]).find()
    assert calls == []


def test_another_torch_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    names = step_direction._NOT_PUBLIC - {"_optimizer_step_pre_hooks"}
    monkeypatch.setattr(step_direction, "_NOT_PUBLIC", names)
    with pytest.raises(RuntimeError, match=r"torch 2\.\d+.*_optimizer_step_pre_hooks"):
        StepDirection(SGD([nn.Parameter(torch.ones(2))], lr=1.0), [1.0])
