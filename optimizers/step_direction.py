"""The direction of the next step of any torch optimizer, found by a step of a copy of it."""

from __future__ import annotations

import copy
import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

# A step has to move the parameters by this share of their length at least for rounding not to show in it ...
_LEAST_MOVE, _GOOD_MOVE = 1e-3, 1e-1
# ... at one of so many rates, each at most so many times the one before.
_MAX_RATES, _STRIDE = 8, 1e6
# By how much the directions found at two rates may differ, as a share of their length.
_TOLERANCE = 0.02


class StepDirection:
    r"""The direction in which an optimizer would move its parameters, by the gradients that they have.

    .. math:: d = \frac{x - x'}{\rho}

    :math:`x'` are the parameters after a step with the learning rates :math:`\rho w_g` of the groups :math:`g`. A copy
    of the optimizer makes it, so that the optimizer's state stays as it is; the parameters are put back. The rate
    :math:`\rho` is large enough for rounding not to show.

    Args:
        optimizer: Any optimizer whose groups have `lr`.
        weights: The groups' learning rates relative to one another, :math:`w`, the largest being 1.

    Attributes:
        length: The Euclidean length of the direction found last.

    Raises:
        ValueError: The optimizer cannot step without a closure or a graph, or not be copied.

    Example:
        >>> weight = torch.nn.Parameter(torch.tensor([1.0, 1.0]))
        >>> weight.grad = torch.tensor([0.5, -2.0])
        >>> StepDirection(torch.optim.SGD([weight], lr=1e-5), [1.0]).find()
        [tensor([ 0.5000, -2.0000])]
    """

    def __init__(self, optimizer: Optimizer, weights: Sequence[float]) -> None:
        self._optimizer = optimizer
        self._weights = weights
        self._rate = 1e-2
        self.length = 0.0

    def find(self) -> list[Tensor]:
        """Return the direction, a tensor for each of the optimizer's parameters; zero where nothing moves."""
        lengths = _length(parameters_of(self._optimizer))
        for _ in range(_MAX_RATES):
            direction = self._moved(self._rate)
            self.length = _length(direction)
            share = self.length * self._rate / lengths if lengths else math.inf
            if not share < _LEAST_MOVE:
                break
            self._rate *= min(_STRIDE, _GOOD_MOVE / share) if share else _STRIDE
        else:
            self._rate = 1e-2  # a gradient of zero
        return direction

    def is_proportional(self, direction: Sequence[Tensor]) -> bool:
        """Return whether half the rate moves the parameters half as far, as it has to for a rate to be measured.

        Args:
            direction: What :meth:`find` has found at the present parameters and gradients.
        """
        other = self._moved(self._rate / 2)
        difference = _length([a - b for a, b in zip(direction, other, strict=True)])
        return not difference > _TOLERANCE * self.length

    @torch.no_grad()
    def _moved(self, rate: float) -> list[Tensor]:
        name = type(self._optimizer).__name__
        try:
            twin = _copy_of(self._optimizer)
        except Exception as error:
            raise ValueError(f"{name} cannot be copied to find its direction: {_one_line(error)}") from error
        for group, weight in zip(twin.param_groups, self._weights, strict=True):
            set_value(group, "lr", rate * weight)
        parameters = parameters_of(self._optimizer)
        before = [p.detach().clone() for p in parameters]
        try:
            # Of the class: schedules wrap the instance's, for the optimizer that they were made for.
            type(twin).step(twin)
        except Exception as error:
            raise ValueError(f"a copy of {name} makes no step by its gradients alone: {_one_line(error)}") from error
        else:
            return [(x - p).div_(rate) for x, p in zip(before, parameters, strict=True)]
        finally:
            for x, p in zip(before, parameters, strict=True):
                p.copy_(x)


def parameters_of(optimizer: Optimizer) -> list[Tensor]:
    """Return the parameters of all groups of an optimizer."""
    return [p for group in optimizer.param_groups for p in group["params"]]


def set_value(group: dict[str, Any], name: str, value: float) -> None:
    """Set a number of a parameter group, which may be kept as a tensor."""
    if isinstance(group[name], Tensor):
        group[name].fill_(value)
    else:
        group[name] = value


def _copy_of(optimizer: Optimizer) -> Optimizer:
    """Return an optimizer with a state of its own for the same parameters, without the hooks of the original."""
    memo: dict[int, Any] = {id(p): p for p in parameters_of(optimizer)}
    twin = object.__new__(type(optimizer))
    for name, value in vars(optimizer).items():
        if name.startswith("_optimizer_") and name.endswith("_hooks"):
            vars(twin)[name] = OrderedDict()
        elif name != "step":
            vars(twin)[name] = copy.deepcopy(value, memo)
    return twin


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _length(tensors: Sequence[Tensor]) -> float:
    norms = [torch.linalg.vector_norm(t.detach(), dtype=_wide(t)).cpu() for t in tensors if t.numel()]
    return float(torch.linalg.vector_norm(torch.stack(norms).double())) if norms else 0.0


def _wide(tensor: Tensor) -> torch.dtype:
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32
