"""What gradient-free optimizers have in common: a loss to ask for, and tensors that may move."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from optimizers.scalars import read_together, require_single
from optimizers.step_contract import ReplayedClosure

Loss = Tensor | float


def loss_function(
    closure: Callable[[], Loss] | None, evaluate: Callable[[], Loss] | None, parameters: Sequence[Tensor]
) -> Callable[[], Loss]:
    """The callable that computes the loss at the present parameters.

    Args:
        closure: torch's own closure. Stands in where ``evaluate`` is missing, with the random numbers of its first call
            each time; the gradients that it computes are of no use.
        evaluate: Computes the loss alone.
        parameters: The parameters whose gradients the closure writes.

    Raises:
        ValueError: if neither is given; and, from the callable, if what they return is no loss.
    """
    if evaluate is None and closure is None:
        raise ValueError("step() got neither evaluate nor closure; a gradient-free optimizer needs one of them")
    replayed = ReplayedClosure(closure, parameters) if evaluate is None and closure is not None else None
    calls = 0

    def loss() -> Loss:
        nonlocal calls
        calls += 1
        # Inside one autocast context PyTorch keeps low-precision copies of weights that have moved since.
        torch.clear_autocast_cache()
        if replayed is None:
            assert evaluate is not None
            return _checked(evaluate())
        if calls > 1:
            return replayed()
        _checked(replayed.first())
        return replayed.start()

    return loss


def _checked(loss: Any) -> Loss:
    if loss is None:
        raise ValueError("the closure, or evaluate, has returned no loss")
    if isinstance(loss, Tensor):
        require_single(loss)
    return loss


def trainable(param_groups: Iterable[dict[str, Any]]) -> list[tuple[Tensor, dict[str, Any]]]:
    """Every non-empty parameter that may move, with its group, in order.

    A parameter with ``requires_grad=False`` is frozen and left out; where all of them are so, gradients are switched
    off altogether and every parameter moves.

    Args:
        param_groups: An optimizer's groups.
    """
    members = [(parameter, group) for group in param_groups for parameter in group["params"] if parameter.numel() > 0]
    return [(p, group) for p, group in members if p.requires_grad] or members


def discard_gradients(param_groups: Iterable[dict[str, Any]]) -> None:
    """Frees the gradients that a closure left behind."""
    for group in param_groups:
        for parameter in group["params"]:
            parameter.grad = None


def read_numbers(values: Sequence[Loss]) -> list[float]:
    """All entries of scalars and vectors as Python numbers, with one synchronisation; infinity where not finite.

    Args:
        values: Numbers, or tensors on any one device.
    """
    return [number if math.isfinite(number) else math.inf for number in read_together(*values)]
