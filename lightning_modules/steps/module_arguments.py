"""Checks of the arguments of a ClosureModule."""

from __future__ import annotations

from numbers import Integral
from typing import Any

from lightning_modules.errors import ModelError
from lightning_modules.schedules import Schedule
from lightning_modules.steps.gradient_clip import GradientClip


def check_module_arguments(
    optimizer: Any,
    lr_scheduler: Any,
    param_groups: Any,
    accumulate_grad_batches: Any,
    gradient_clip: Any,
    max_skipped_steps: Any,
) -> None:
    """Check the arguments of a `ClosureModule`.

    Raises:
        ModelError: if one is out of range or of another kind; it says what is allowed.
    """
    for argument, count in (
        ("accumulate_grad_batches", accumulate_grad_batches),
        ("max_skipped_steps", max_skipped_steps),
    ):
        if not isinstance(count, Integral) or count < 1:
            raise ModelError(f"{argument}: {count!r} is not allowed; a whole number, 1 or more")
    if not callable(optimizer):
        name = optimizer if isinstance(optimizer, str) else f"one {type(optimizer).__name__} that is made already"
        name = "none" if optimizer is None else name
        raise ModelError(f"optimizer: {name} is not allowed; a class, or functools.partial(AdamW, lr=1e-4)")
    if lr_scheduler is not None and not isinstance(lr_scheduler, Schedule):
        name = getattr(lr_scheduler, "__name__", type(lr_scheduler).__name__)
        raise ModelError(f"lr_scheduler: {name} is not a Schedule; give lightning_modules.Schedule({name})")
    if param_groups is not None and (isinstance(param_groups, type) or not callable(param_groups)):
        name = getattr(param_groups, "__name__", repr(param_groups))
        raise ModelError(f"param_groups: {name} is not allowed; optimizers.ParamGroups(...)")
    if gradient_clip is not None and not isinstance(gradient_clip, GradientClip):
        raise ModelError(f"gradient_clip: {gradient_clip!r} is not allowed; lightning_modules.GradientClip(1.0)")
