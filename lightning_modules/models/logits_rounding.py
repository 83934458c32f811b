"""Whether two computations of a model's logits differ by rounding alone."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

# What rounding makes of a few layers in float32, and the most that is put down to it, as shares of the largest logit:
# where a last digit decides which tokens a text attends to, as in Reformer's hashes, it would explain everything.
_FEW_LAYERS, _MOST = 5e-5, 1e-2
# How often rounding is imitated, and by how many times the largest difference two computations may be apart.
_DRAWS, _MARGIN = 4, 10.0


def equal_but_for_rounding(logits: Tensor, other: Tensor, model: nn.Module, compute: Callable[[], Tensor]) -> bool:
    """Return whether two results of one computation are equal up to rounding.

    Deep pretrained models with a few very large activations enlarge rounding, decoders of 30 layers by a thousand. So
    where the results are farther apart than rounding in a few layers explains, the model tells by how much it does:
    the logits are computed again while each module's output is changed in its last digit, at random.

    Args:
        logits: What one way of computing has found.
        other: What another one has.
        model: The model, in eval mode.
        compute: Runs it, one way or the other, and returns logits.
    """
    apart, largest = _apart(logits, other), float(logits.abs().max())
    if not _FEW_LAYERS * largest < apart <= _MOST * largest:
        return apart <= _FEW_LAYERS * largest
    exact = compute()
    rounding = max(_apart(exact, _with_last_digits_changed(model, compute, seed)) for seed in range(_DRAWS))
    return apart <= _MARGIN * rounding


def _apart(logits: Tensor, other: Tensor) -> float:
    return float((logits.float() - other.float()).abs().max())


def _with_last_digits_changed(model: nn.Module, compute: Callable[[], Tensor], seed: int) -> Tensor:
    """Return the logits where every module without parts of its own adds or takes away a rounding error."""
    generator = torch.Generator().manual_seed(seed)

    def change(module: nn.Module, args: Any, output: Any) -> Any:
        if not isinstance(output, Tensor) or not output.is_floating_point():
            return output
        signs = torch.randint(0, 2, output.shape, generator=generator).to(output.device, output.dtype) * 2 - 1
        return output * (1 + torch.finfo(output.dtype).eps * signs)

    with ExitStack() as hooks:
        for module in model.modules():
            if not list(module.children()):
                hooks.enter_context(module.register_forward_hook(change))
        return compute()
