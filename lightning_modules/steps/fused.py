"""torch's optimizers in their fused form, one kernel for a whole step, unless another form is chosen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lightning_modules.steps.factories import made_by, unset_keywords
from optimizers.shards import is_sharded


def fused_keywords(
    factory: Callable[..., Any], module: nn.Module, device: torch.device, has_scaler: bool
) -> dict[str, bool]:
    """Return ``{"fused": True}`` for an optimizer of torch that has a fused form and can use it, else nothing.

    Its numbers differ from those of the other forms by rounding. torch chooses it by itself nowhere (torch 2.13).

    Args:
        factory: A class of ``torch.optim``, or a partial of one.
        module: What it trains.
        device: Where the module is trained.
        has_scaler: Whether a gradient scaler runs the steps. A fused optimizer unscales gradients itself, which
            Lightning refuses with clipping, and a checkpoint of another form would not go on so.
    """
    if has_scaler or not getattr(made_by(factory), "__module__", "").startswith("torch.optim"):
        return {}
    given = getattr(factory, "keywords", {})
    if given.get("foreach") is not None or given.get("capturable") or given.get("differentiable"):
        return {}
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    fits = all(
        parameter.is_floating_point()
        and parameter.device.type == device.type
        and not is_sharded(parameter)
        and _is_dense(parameter)
        for parameter in parameters
    )
    has_sparse_gradients = any(getattr(each, "sparse", False) for each in module.modules())
    if device.type not in ("cpu", "cuda") or not fits or has_sparse_gradients:
        return {}
    return unset_keywords(factory, {"fused": True})


def _is_dense(parameter: Tensor) -> bool:
    """Return whether a parameter has no gaps in memory, over which fused steps on a CPU go as over its entries."""
    return torch.empty_like(parameter, device="meta").stride() == parameter.stride()
