"""The order in which the modules of a model run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from optimizers.training_modes import restore_modes, training_modes


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Context without gradients in which a model is in eval mode; its mode and torch's random numbers come back."""
    modes = training_modes(model)
    devices = {parameter.device for parameter in model.parameters() if parameter.device.type == "cuda"}
    try:
        for module in modes:
            module.training = False
        with torch.no_grad(), torch.random.fork_rng(list(devices)):
            yield
    finally:
        restore_modes(modes)


def call_order(model: nn.Module, run: Callable[[], Any]) -> tuple[str, ...]:
    """Return the names of a model's modules in the order in which their calls begin, one entry per call.

    The model runs once, as in :func:`evaluating`.

    Args:
        model: The model; its own name is the empty string.
        run: Runs it on any input.

    Example::

        order = call_order(bert, lambda: bert(input_ids=torch.tensor([[5, 6, 7]])))
        parts = named_parts(bert, order)
    """
    calls: list[str] = []
    names = {module: name for name, module in model.named_modules()}

    def note(module: nn.Module, args: Any) -> None:
        calls.append(names[module])

    with ExitStack() as hooks, evaluating(model):
        for module in names:
            hooks.enter_context(module.register_forward_pre_hook(note))
        run()
    return tuple(calls)
