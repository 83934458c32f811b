"""A warning about step sizes that something else sets between two steps of an optimizer that finds its own."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

from torch.optim import Optimizer

_Its = TypeVar("_Its", bound=Optimizer)
_Arguments = ParamSpec("_Arguments")
_Returned = TypeVar("_Returned")


def finds_step_sizes(
    step: Callable[Concatenate[_Its, _Arguments], _Returned],
) -> Callable[Concatenate[_Its, _Arguments], _Returned]:
    """Decorate the `step` of an optimizer that finds its own step size: it warns if `lr` was set since the last step.

    A learning-rate schedule sets it, also one that is constant: to the size of the first trial. New groups and a state
    that was loaded are no such change. There is one warning for each optimizer.

    Args:
        step: The method, which writes what it has found to the groups' `lr`.
    """

    @functools.wraps(step)
    def checked(optimizer: _Its, *args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Returned:
        own: Any = optimizer
        left = getattr(own, "_left_step_sizes", ())
        # A state that is loaded comes in new groups.
        was_set = any(now is before and now["lr"] != lr for now in own.param_groups for before, lr in left)
        if was_set and not getattr(own, "_has_warned_of_set", False):
            own._has_warned_of_set = True
            name = type(own).__name__
            warnings.warn(
                f"{name}: something has set lr between two steps, as a learning-rate schedule does. {name} finds its "
                "own step size and writes it there: leave the schedule out, or take an optimizer with a learning rate",
                # The caller is often torch's schedule, whose warnings transformers hides.
                stacklevel=1,
            )
        try:
            return step(optimizer, *args, **kwargs)
        finally:
            own._left_step_sizes = [(group, group["lr"]) for group in own.param_groups]

    return checked
