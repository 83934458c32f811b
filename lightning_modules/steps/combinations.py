"""Checks that an optimizer goes with schedule, parameter groups, precision and clipping."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.optim import Optimizer

from lightning_modules.errors import ModelError
from optimizers import ParamGroups, traits


def check_combination(
    optimizer: Optimizer,
    groups: ParamGroups,
    *,
    has_schedule: bool,
    scales_gradients: bool = False,
    clips_gradients: bool = False,
) -> None:
    """Refuse settings that an optimizer would silently ignore or undo.

    Args:
        optimizer: A freshly made optimizer.
        groups: What its groups were made by.
        has_schedule: Whether a learning-rate schedule is to follow.
        scales_gradients: Whether a gradient scaler runs the steps, as with ``precision: 16-mixed``.
        clips_gradients: Whether gradients are clipped before a step.

    Raises:
        ModelError: one sentence: what does not go together, and what to do.
    """
    name, can = type(optimizer).__name__, traits(optimizer)
    if not can.measures_slope:  # a search would reject what such a division leads to
        _check_eps(optimizer)
    if scales_gradients and not can.needs_gradient:
        raise ModelError(
            f"precision: {name} computes no gradient for the scaler of 16-mixed to scale; choose bf16-mixed or 32-true"
        )
    if scales_gradients and clips_gradients and any(each.get("fused") for each in optimizer.param_groups):
        raise ModelError(
            f"gradient_clip: {name} in its fused form unscales the gradients of 16-mixed within its step, too late for "
            "them to be clipped; give it fused: false, or choose bf16-mixed"
        )
    if clips_gradients and not can.needs_gradient:
        raise ModelError(f"gradient_clip: {name} computes no gradient to clip; leave gradient_clip out")
    if clips_gradients and can.measures_slope:
        raise ModelError(
            f"gradient_clip: {name} takes the slope of the loss from the gradient, which clipping would falsify; "
            "leave gradient_clip out: the search bounds the step"
        )
    if any(group.get("relative_step") and group.get("lr") is not None for group in optimizer.param_groups):
        # pytorch_optimizer's AdaFactor keeps a rate that it does not use; transformers' refuses one then.
        raise ModelError(
            f"optimizer: {name} takes no notice of lr while relative_step is true; give it relative_step: false, or "
            "lr: null where it is to find its own"
        )
    if can.sets_step_size and has_schedule:
        raise ModelError(
            f"lr_scheduler: {name} finds its own step size, which a schedule would overwrite; leave lr_scheduler out, "
            "or choose an optimizer with a learning rate"
        )
    if has_schedule and any(group.get("lr") is None for group in optimizer.param_groups):
        raise ModelError(
            f"lr_scheduler: {name} keeps no learning rate (lr) in its groups to set; leave lr_scheduler out"
        )
    if can.sets_step_size and groups.lrs:
        raise ModelError(
            f"param_groups: {name} finds its own step size, so parts cannot be given learning rates; give them "
            "factors, or choose an optimizer with a learning rate"
        )
    takes_factors = "lr_factor" in optimizer.defaults or not can.sets_step_size
    if not takes_factors and any("lr_factor" in group for group in optimizer.param_groups):
        raise ModelError(
            f"param_groups: {name} moves all parameters alike; parts cannot have learning rates of their own"
        )
    if groups.anchor_decay and "anchor_decay" not in optimizer.defaults:
        raise ModelError(
            f"param_groups: {name} has no anchor_decay; choose optimizers.AdamWL2SP or a line search (AdamSLS, SaLSA, "
            "SGDSLS), or leave anchor_decay out"
        )


def _check_eps(optimizer: Optimizer) -> None:
    """Refuse an optimizer whose eps is rounded to 0 in the parameters' precision."""
    for group in optimizer.param_groups:
        eps, dtype = group.get("eps"), _smallest_type(group["params"])
        if isinstance(eps, float) and dtype is not None and 0 < eps < _smallest_number(dtype):
            raise ModelError(
                f"precision: {type(optimizer).__name__}'s eps of {eps:g} is 0 in {dtype}, whose smallest number is "
                f"{_smallest_number(dtype):.1g}: where a gradient is 0 it divides by 0; choose 16-mixed, bf16-mixed or "
                "bf16-true"
            )


def _smallest_type(parameters: Iterable[Tensor]) -> torch.dtype | None:
    """Return the type with the shortest range among those of some parameters."""
    types = {parameter.dtype for parameter in parameters if parameter.is_floating_point()}
    return max(types, key=_smallest_number, default=None)


def _smallest_number(dtype: torch.dtype) -> float:
    """Return the smallest number above 0 that is not rounded to 0, subnormal ones included."""
    return torch.finfo(dtype).tiny * torch.finfo(dtype).eps
