"""Gradients of a mean over no terms, which are NaN even times 0, taken for 0."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor


@contextmanager
def without_gradient_of_empty_mean(share: Tensor, module: nn.Module) -> Iterator[None]:
    """Context of a forward and backward pass whose gradients are taken for 0 where its share of the loss is 0.

    They are replaced where they arrive at a parameter: before they are added to others, and before DDP or FSDP2 sends
    them to other ranks, which wait for them. Nothing waits for a device.

    Args:
        share: The share of the micro-batch in the loss of the step, without dimensions.
        module: The module with the parameters that get gradients.
    """
    known: set[int] = set()

    def replaced(gradient: Tensor) -> Tensor:
        if not gradient.is_sparse:
            return torch.where((share == 0).to(gradient.device), 0.0, gradient)
        gradient = gradient.coalesce()
        values = replaced(gradient.values())
        return torch.sparse_coo_tensor(gradient.indices(), values, gradient.shape, is_coalesced=True)

    def watch(module: nn.Module, *_: Any) -> None:
        for parameter in module.parameters():
            # Of a sharded module the gathered parameters, which are there while it runs, get the gradients.
            if parameter.requires_grad and not isinstance(parameter, DTensor) and id(parameter) not in known:
                known.add(id(parameter))
                hooks.enter_context(parameter.register_hook(replaced))

    with ExitStack() as hooks:
        watch(module)
        for part in module.modules():
            if isinstance(part, FSDPModule):
                hooks.enter_context(part.register_forward_pre_hook(watch))
        yield
