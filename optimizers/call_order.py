"""The order in which the modules of a model run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn


@torch.no_grad()
def call_order(model: nn.Module, run: Callable[[], Any]) -> tuple[str, ...]:
    """Return the names of a model's modules in the order in which their calls begin, one entry per call.

    The model runs once, in eval mode and without gradients; its mode and torch's random numbers are afterwards what
    they were.

    Args:
        model: The model; its own name is the empty string.
        run: Runs it on any input.

    Example::

        order = call_order(bert, lambda: bert(input_ids=torch.tensor([[5, 6, 7]])))
        parts = named_parts(bert, order)
    """
    calls: list[str] = []
    names = {module: name for name, module in model.named_modules()}
    training = [module for module in names if module.training]

    def note(module: nn.Module, args: Any) -> None:
        calls.append(names[module])

    hooks = [module.register_forward_pre_hook(note) for module in names]
    devices = {parameter.device for parameter in model.parameters() if parameter.device.type == "cuda"}
    try:
        for module in training:
            module.training = False
        with torch.random.fork_rng(list(devices)):
            run()
    finally:
        for hook in hooks:
            hook.remove()
        for module in training:
            module.training = True
    return tuple(calls)
