"""The direction of the next step of any torch optimizer, found by a step of a copy of it."""

from __future__ import annotations

import copy
import math
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from optimizers.random_state import generator_states, set_generator_states

# The length of a step, as a share of that of the parameters, from which rounding does not show in it, and the length
# that the next rate aims at where a step is shorter.
_LEAST_MOVE, _GOOD_MOVE = 1e-3, 1e-1
# The same in units of the parameters' relative precision: in bfloat16 these are the larger ones.
_LEAST_ROUNDINGS, _GOOD_ROUNDINGS = 64, 128
# How many rates are tried, and by what each may differ from the one before.
_MAX_RATES, _STRIDE = 8, 1e6
# A gradient of zero moves nothing at any rate: the search ends before float32 does.
_LARGEST_RATE = 1e30
# A step that moves float32 parameters by this share of their length shows its direction to within a percent.
_VISIBLE_MOVE = 1e-5
# By how much the directions found at two rates may differ, as a share of their length.
_TOLERANCE = 0.02
# What torch's Optimizer keeps its hooks in, which is not public (torch 2.13).
_NOT_PUBLIC = frozenset(
    f"_optimizer_{call}_{when}_hooks" for call in ("step", "state_dict", "load_state_dict") for when in ("pre", "post")
)


class NotMeasurableError(ValueError):
    """An optimizer does something that its learning rate cannot be measured with."""


class StepDirection:
    r"""The direction in which an optimizer would move its parameters, by the gradients that they have.

    .. math:: d = \frac{x - x'}{\rho}

    :math:`x'` are the parameters after a step with the learning rates :math:`\rho w_g` of the groups :math:`g`. A copy
    of the optimizer makes it, so that the optimizer's state stays as it is; parameters, gradients and random numbers
    are put back. The rate :math:`\rho` is large enough for rounding not to show. A step that the optimizer makes itself
    shows its direction for less: see :meth:`is_visible`.

    Args:
        optimizer: Any optimizer whose groups have `lr`.
        weights: The groups' learning rates relative to one another, :math:`w`, the largest being 1.

    Attributes:
        length: The Euclidean length of the direction found last.

    Raises:
        NotMeasurableError: The optimizer cannot step without a closure or a graph, or not be copied.
        RuntimeError: torch is of a version that this was not written for.

    Example:
        >>> weight = torch.nn.Parameter(torch.tensor([1.0, 1.0]))
        >>> weight.grad = torch.tensor([0.5, -2.0])
        >>> StepDirection(torch.optim.SGD([weight], lr=1e-5), [1.0]).find()
        [tensor([ 0.5000, -2.0000])]
    """

    def __init__(self, optimizer: Optimizer, weights: Sequence[float]) -> None:
        _check_hooks()
        self._optimizer = optimizer
        self._weights = weights
        self._rate = 1e-2
        self._size = 0.0  # the length of the parameters
        self._before: list[Tensor] = []
        self.length = 0.0

    def find(self) -> list[Tensor]:
        """Return the direction, a tensor for each of the optimizer's parameters; zero where nothing moves."""
        parameters = parameters_of(self._optimizer)
        self._size = _length(parameters)
        rounding = max((torch.finfo(p.dtype).eps for p in parameters), default=0.0)
        least, good = max(_LEAST_MOVE, _LEAST_ROUNDINGS * rounding), max(_GOOD_MOVE, _GOOD_ROUNDINGS * rounding)
        for _ in range(_MAX_RATES):
            direction = self._moved(self._rate)
            self.length = _length(direction)
            share = self.length * self._rate / self._size if self._size else math.inf
            if not share < least:
                return direction
            self._rate *= min(_STRIDE, good / share) if share else _STRIDE
            if self._rate > _LARGEST_RATE:
                break
        self._rate = 1e-2  # a gradient of zero
        return direction

    def is_proportional(self, direction: Sequence[Tensor]) -> bool:
        """Return whether half the rate moves the parameters half as far, as it has to for a rate to be measured.

        Args:
            direction: What :meth:`find` has found at the present parameters and gradients.
        """
        other = self._moved(self._rate / 2)
        difference = _length(a - b for a, b in zip(direction, other, strict=True))
        return not difference > _TOLERANCE * self.length

    def state(self) -> tuple[float, float, float]:
        """Return what :meth:`load` takes: the rate in use, and the lengths of parameters and direction."""
        return self._rate, self._size, self.length

    def load(self, state: Sequence[float]) -> None:
        """Go on from what :meth:`state` has returned."""
        self._rate, self._size, self.length = state

    @property
    def is_visible(self) -> bool:
        """Whether the optimizer's own next step, at its present rates, will show the direction in spite of rounding."""
        rates = [rate for rate in self._rates_of_weight_one() if rate is not None]
        exact = all(p.dtype in (torch.float32, torch.float64) for p in parameters_of(self._optimizer))
        return exact and self.length * min(rates) > _VISIBLE_MOVE * self._size

    def before_step(self) -> None:
        """Remember the parameters, right before a step of the optimizer."""
        self._before = [p.detach().clone() for p in parameters_of(self._optimizer)]

    @torch.no_grad()
    def after_step(self) -> list[Tensor]:
        """Return the direction of the step that was made since :meth:`before_step`."""
        direction, self._before = self._before, []
        moved = iter(direction)
        for group, rate in zip(self._optimizer.param_groups, self._rates_of_weight_one(), strict=True):
            for p in movable(group):
                next(moved).sub_(p).div_(math.inf if rate is None else rate)
        self.length = _length(direction)
        return direction

    def _rates_of_weight_one(self) -> list[float | None]:
        """Return the present rates, each for a weight of 1; None for groups without weight."""
        groups = zip(self._optimizer.param_groups, self._weights, strict=True)
        return [float(group["lr"]) / weight if weight else None for group, weight in groups]

    @torch.no_grad()
    def _moved(self, rate: float) -> list[Tensor]:
        name = type(self._optimizer).__name__
        try:
            twin = _copy_of(self._optimizer)
        except Exception as error:
            raise NotMeasurableError(f"{name} cannot be copied to find its direction: {_one_line(error)}") from error
        for group, weight in zip(twin.param_groups, self._weights, strict=True):
            set_value(group, "lr", rate * weight)
        parameters = parameters_of(self._optimizer)
        before, gradients = [p.detach().clone() for p in parameters], [p.grad for p in parameters]
        states = generator_states({p.device for p in parameters})
        try:
            for p, gradient in zip(parameters, gradients, strict=True):
                p.grad = None if gradient is None else gradient.clone()  # some optimizers work on it in place
            # Of the class: schedules wrap the instance's, for the optimizer that they were made for.
            type(twin).step(twin)
        except Exception as error:
            raise NotMeasurableError(
                f"a copy of {name} makes no step by its gradients alone: {_one_line(error)}"
            ) from error
        else:
            return [(x - p).div_(rate) for x, p in zip(before, parameters, strict=True)]
        finally:
            set_generator_states(states)
            for x, gradient, p in zip(before, gradients, parameters, strict=True):
                p.copy_(x)
                p.grad = gradient


def parameters_of(optimizer: Optimizer) -> list[Tensor]:
    """Return the parameters of all groups of an optimizer that a step can move."""
    return [p for group in optimizer.param_groups for p in movable(group)]


def movable(group: dict[str, Any]) -> list[Tensor]:
    """Return the parameters of a group that a step can move; not those of a quantized model, of a byte each or less."""
    return [p for p in group["params"] if (p.is_floating_point() or p.is_complex()) and p.dtype.itemsize > 1]


def set_value(group: dict[str, Any], name: str, value: float) -> None:
    """Set a number of a parameter group, which may be kept as a tensor."""
    if isinstance(group[name], Tensor):
        group[name].fill_(value)
    else:
        group[name] = value


def _check_hooks() -> None:
    """Raise an error if torch keeps hooks elsewhere: the step of a copy would call those of the original."""
    present = {name for name in vars(torch.optim.SGD([torch.zeros(1)])) if "hook" in name}
    if present != _NOT_PUBLIC:
        names = ", ".join(sorted(present ^ _NOT_PUBLIC))
        raise RuntimeError(f"torch {torch.__version__}: an optimizer's hooks are not those of torch 2.13: {names}")


def _copy_of(optimizer: Optimizer) -> Optimizer:
    """Return an optimizer with a state of its own for the same parameters, without the hooks of the original."""
    memo: dict[int, Any] = {id(p): p for group in optimizer.param_groups for p in group["params"]}
    twin = object.__new__(type(optimizer))
    for name, value in vars(optimizer).items():
        if name in _NOT_PUBLIC:
            vars(twin)[name] = OrderedDict()
        elif name != "step":
            vars(twin)[name] = copy.deepcopy(value, memo)
    return twin


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def wide_inner_product(one: Tensor, other: Tensor) -> Tensor:
    """Return the inner product of two tensors, in float32 at least; that of complex ones as of pairs of numbers."""
    if one.is_complex():
        one, other = torch.view_as_real(one), torch.view_as_real(other)
    wide = _wide(other)
    return (one.to(wide) * other.to(wide)).sum()  # products of small gradients are 0 in float16


def _length(tensors: Iterable[Tensor]) -> float:
    reals = [torch.view_as_real(t) if t.is_complex() else t for t in (t.detach() for t in tensors if t.numel())]
    norms = [torch.linalg.vector_norm(t, dtype=_wide(t)).cpu() for t in reals]
    return float(torch.linalg.vector_norm(torch.stack(norms).double())) if norms else 0.0


def _wide(tensor: Tensor) -> torch.dtype:
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32
