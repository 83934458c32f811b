"""Optimizer state that is kept at a higher precision than the weights, put back as it was saved."""

from __future__ import annotations

from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

_LOW = (torch.bfloat16, torch.float16)


def keep_precision(optimizer: Optimizer, checkpoint: dict[str, Any]) -> None:
    """Let the next ``load_state_dict`` of an optimizer keep float32 state beside weights of 16 bits.

    torch 2.13 rounds all of it but ``step`` to the precision of the weights. Of averages that move by less than a 256th
    in a step, as those of CAME and the sums of MADGRAD, nothing would be added any more.

    Args:
        optimizer: The optimizer, before its state is loaded.
        checkpoint: The checkpoint. Where its weights are of another precision than those of now, torch's way is right.
    """
    weights = [value for value in checkpoint.get("state_dict", {}).values() if isinstance(value, Tensor)]
    if not any(weight.dtype in _LOW for weight in weights):
        return

    def before(_: Optimizer, state: dict[str, Any]) -> None:
        saved.update(state)

    def after(_: Optimizer) -> None:
        for handle in handles:
            handle.remove()
        ids = chain.from_iterable(group["params"] for group in saved["param_groups"])
        parameters = chain.from_iterable(group["params"] for group in optimizer.param_groups)
        for number, parameter in zip(ids, parameters, strict=True):
            loaded = optimizer.state.get(parameter, {})
            for name, value in saved["state"].get(number, {}).items():
                now = loaded.get(name)
                if type(now) is Tensor and now.dtype in _LOW and value.dtype == torch.float32:
                    loaded[name] = value.to(now.device, copy=True)
        saved.clear()

    saved: dict[str, Any] = {}
    handles = (
        optimizer.register_load_state_dict_pre_hook(before),
        optimizer.register_load_state_dict_post_hook(after),
    )
