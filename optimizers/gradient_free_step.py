"""A step of an optimizer that compares losses instead of reading gradients: how it starts, measures and ends."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from optimizers.scalars import read_together, require_single
from optimizers.step_contract import Closure, Evaluate, Loss, ReplayedClosure


class GradientFreeStep:
    """One step of a gradient-free optimizer; counts the step in the groups' `step`.

    Args:
        optimizer: The optimizer. Its groups have the keys `step` and `skipped`.
        closure: torch's own closure. It stands in where `evaluate` is missing, with the random numbers of its first
            call each time; the gradients that it computes are discarded at the end.
        evaluate: Computes the loss alone.

    Attributes:
        number: The number of steps before this one.
        members: The tensors that may move, with their groups (`trainable`).
        evaluations: The number of losses computed so far.

    Raises:
        ValueError: There is neither `closure` nor `evaluate`; from `loss`, if what they return is no loss.
    """

    def __init__(self, optimizer: Optimizer, closure: Closure | None, evaluate: Evaluate | None) -> None:
        self._groups = optimizer.param_groups
        self._leaves_gradients = evaluate is None
        if evaluate is None:
            if closure is None:
                raise ValueError("step() got neither evaluate nor closure; a gradient-free optimizer needs one of them")
            evaluate = _replayed(closure, [param for group in self._groups for param in group["params"]])
        self._evaluate = evaluate
        self.members = trainable(self._groups)
        self.evaluations = 0
        self.number: int = self._groups[0]["step"]
        for group in self._groups:
            group["step"] = self.number + 1

    def loss(self) -> Loss:
        """Return the loss at what the parameters are now."""
        self.evaluations += 1
        # Inside one autocast context PyTorch keeps low-precision copies of weights that have moved since.
        torch.clear_autocast_cache()
        loss = self._evaluate()
        if loss is None:
            raise ValueError("the closure, or evaluate, has returned no loss")
        require_single(loss)
        return loss

    def finish(self, skipped: bool) -> None:
        """Free the gradients that the closure left behind; count a step that was skipped for losses not finite."""
        if self._leaves_gradients:
            discard_gradients(self._groups)
        for group in self._groups:
            group["skipped"] += skipped


def trainable(param_groups: Iterable[dict[str, Any]]) -> list[tuple[Tensor, dict[str, Any]]]:
    """Return every non-empty parameter that may move, with its group, in order.

    A parameter with `requires_grad=False` is frozen and left out. Where all of them are, gradients are switched off
    altogether and every parameter may move, but for those of whole numbers, as quantised models have them.

    Args:
        param_groups: An optimizer's groups.
    """
    every = [(param, group) for group in param_groups for param in group["params"]]
    members = [(p, group) for p, group in every if p.numel() > 0 and (p.is_floating_point() or p.is_complex())]
    return [(param, group) for param, group in members if param.requires_grad] or members


def read_losses(values: Sequence[Loss]) -> list[float]:
    """Return all entries of scalars and vectors as Python numbers, infinity where not finite; one synchronisation.

    Args:
        values: Numbers, or tensors on any one device.
    """
    return [number if math.isfinite(number) else math.inf for number in read_together(*values)]


def discard_gradients(param_groups: Iterable[dict[str, Any]]) -> None:
    """Free the gradients of all parameters of an optimizer's groups."""
    for group in param_groups:
        for param in group["params"]:
            param.grad = None


def _replayed(closure: Closure, params: Sequence[Tensor]) -> Callable[[], Any]:
    """Return a function that calls the closure, and from the second call on repeats its random numbers."""
    replayed = ReplayedClosure(closure, params)
    is_first = True

    def loss() -> Any:
        nonlocal is_first
        if not is_first:
            return replayed()
        is_first = False
        replayed.first()
        return replayed.start()

    return loss
