"""A check that a closure clears the gradients: one that accumulates returns a loss that they do not belong to."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def call_clearing(name: str, closure: Callable[[], Any], params: Sequence[Tensor]) -> Any:
    """Return what a closure returns, after a look whether it has cleared the gradients that were there.

    Under Lightning's ``accumulate_grad_batches`` it clears them at the first micro-batch alone, and returns the loss of
    the last one. The smallest gradient is marked with NaN to see this; costs nothing more where it is a new tensor
    afterwards, as `zero_grad` leaves it by default. Gradients that are zero may be added to.

    Args:
        name: The optimizer's name, for the error.
        closure: Computes the loss with its gradient; called once, or twice where its gradient is NaN.
        params: The parameters whose gradients it writes.

    Raises:
        ValueError: It adds to gradients that were there.
    """
    there = [
        (p, p.grad) for p in params if type(p.grad) is Tensor and p.grad.layout == torch.strided and p.grad.numel()
    ]
    if not there:
        return closure()
    owner, marked = min(there, key=lambda pair: pair[1].numel())
    marked.detach().masked_fill_(marked.detach() != 0, math.nan)
    loss = closure()
    if owner.grad is marked and bool(marked.isnan().any()):
        # The gradient may be NaN by itself, which a closure that clears it shows again.
        marked.detach().zero_()
        closure()
        if not bool(marked.isnan().any()):
            raise ValueError(
                f"{name}: the closure adds to gradients that are there already, as those of accumulated batches, and "
                "its loss is that of the last batch alone; clear the gradients in it, or give step() `evaluate`, the "
                "mean loss of all batches (lightning_modules.ClosureModule has accumulate_grad_batches)"
            )
    return loss
