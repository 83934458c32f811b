"""Directions of descent (the gradient, Adam, Lion): for each a function on lists of tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from optimizers.checks import require


class Direction(NamedTuple):
    r"""A direction of descent: per tensor :math:`d_i = s_i \, n_i / (\sqrt{q_i} + \epsilon_i)`.

    A step moves by :math:`-\eta d`. Kept in these pieces, and not as a tensor of its own, so that a direction needs
    no memory.

    Args:
        numerators: One tensor per parameter, :math:`n_i`. May be the gradients or a state buffer themselves; they are
            only read.
        squares: One tensor per parameter, :math:`q_i`, or None where nothing is divided by.
        eps: One number per parameter, :math:`\epsilon_i`; with `squares` alone, None for zeros.
        scales: One number per parameter, :math:`s_i`, or None for ones.
        without_momentum: The same direction made of the present gradient alone, where that is another one. It always
            descends on the present batch; `condition="gradient"` searches along it.
    """

    numerators: list[Tensor]
    squares: list[Tensor] | None = None
    eps: list[float] | None = None
    scales: list[float] | None = None
    without_momentum: Direction | None = None


# A direction is a function of parameters, gradients, their states (dicts that it fills and updates in place) and the
# options of their group; it is called once per step and group.
DirectionFunction = Callable[[list[Tensor], list[Tensor], list[dict[str, Any]], dict[str, Any]], Direction]


def sgd(params: list[Tensor], grads: list[Tensor], states: list[dict[str, Any]], group: dict[str, Any]) -> Direction:
    r"""The gradient itself: :math:`d = g`. No state."""
    return Direction(grads)


def adam(params: list[Tensor], grads: list[Tensor], states: list[dict[str, Any]], group: dict[str, Any]) -> Direction:
    r"""Adam's direction (arXiv 1412.6980), with the state and the names of `torch.optim.AdamW`.

    .. math::
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1) g_t, \quad v_t = \beta_2 v_{t-1} + (1 - \beta_2) g_t^2 \\
        d_t &= \frac{m_t / (1 - \beta_1^t)}{\sqrt{v_t / (1 - \beta_2^t)} + \epsilon}

    and without momentum :math:`g_t` in place of :math:`m_t / (1 - \beta_1^t)`. :math:`t` counts the steps of each
    parameter, from 1. With `amsgrad`, :math:`v_t` is replaced by its maximum so far. Options of the group: `betas`,
    `eps`, `amsgrad`.
    """
    beta1, beta2 = group["betas"]
    exp_avgs, exp_avg_sqs, largest = _adam_averages(params, states, group["amsgrad"])
    _count(states)
    torch._foreach_lerp_(exp_avgs, grads, 1 - beta1)
    torch._foreach_mul_(exp_avg_sqs, beta2)
    torch._foreach_addcmul_(exp_avg_sqs, grads, grads, 1 - beta2)
    if largest:
        torch._foreach_maximum_(largest, exp_avg_sqs)
    return _adam_direction(grads, states, group)


def adam_options(betas: tuple[float, float], eps: float, amsgrad: bool) -> dict[str, Any]:
    """Return the options of `adam` for a group.

    Raises:
        ValueError: One of them is out of its range.
    """
    require(all(0 <= beta < 1 for beta in betas), "betas", betas, "at least 0 and less than 1, both")
    require(eps >= 0, "eps", eps, "at least 0")
    return {"betas": tuple(betas), "eps": eps, "amsgrad": amsgrad}


def adam_step(
    params: list[Tensor], grads: list[Tensor], states: list[dict[str, Any]], group: dict[str, Any], step_size: float
) -> Direction | None:
    """A whole step along Adam's direction with decoupled weight decay, by torch's kernel for a CPU.

    The kernel passes over the tensors once, where an update in parts passes over them several times.

    Returns:
        The direction of the step; None, and nothing is done, where the kernel does not apply.
    """
    tensors = (params, grads, *_adam_averages(params, states, group["amsgrad"]))
    if not all(_is_plain(t) for some in tensors for t in some) or any("anchor" in state for state in states):
        return None
    adamw_step(params, grads, states, group, step_size, group["weight_decay"], fused=True, maximize=False)
    return _adam_direction(grads, states, group)


def adamw_step(
    params: list[Tensor],
    grads: list[Tensor],
    states: list[dict[str, Any]],
    group: dict[str, Any],
    step_size: float,
    weight_decay: float,
    **kernel: Any,
) -> None:
    """Make a step of `torch.optim.AdamW` by the state and the options of `adam`.

    Args:
        params: Parameters.
        grads: Their gradients.
        states: Their states, which are filled and updated in place.
        group: Their group.
        step_size: The learning rate.
        weight_decay: The decoupled decay towards zero.
        kernel: Further arguments of torch's function, such as which of its forms to take.
    """
    exp_avgs, exp_avg_sqs, largest = _adam_averages(params, states, group["amsgrad"])
    adamw(
        params,
        grads,
        exp_avgs,
        exp_avg_sqs,
        largest,
        [state["step"] for state in states],
        amsgrad=group["amsgrad"],
        beta1=group["betas"][0],
        beta2=group["betas"][1],
        lr=step_size,
        weight_decay=weight_decay,
        eps=group["eps"],
        **kernel,
    )


def lion(params: list[Tensor], grads: list[Tensor], states: list[dict[str, Any]], group: dict[str, Any]) -> Direction:
    r"""Lion's direction (arXiv 2302.06675): the sign of an interpolation between gradient and momentum.

    .. math:: d_t = \operatorname{sign}(\beta_1 m_{t-1} + (1 - \beta_1) g_t), \quad
        m_t = \beta_2 m_{t-1} + (1 - \beta_2) g_t

    Options of the group: `betas`.
    """
    beta1, beta2 = group["betas"]
    for param, state in zip(params, states, strict=True):
        if "exp_avg" not in state:
            state["exp_avg"] = torch.zeros_like(param, memory_format=torch.preserve_format)
    exp_avgs = [state["exp_avg"] for state in states]
    numerators = list(torch._foreach_lerp(exp_avgs, grads, 1 - beta1))
    torch._foreach_sign_(numerators)
    torch._foreach_lerp_(exp_avgs, grads, 1 - beta2)
    return Direction(numerators)


# A whole step in one pass, for directions that torch has a kernel for.
StepFunction = Callable[[list[Tensor], list[Tensor], list[dict[str, Any]], dict[str, Any], float], Direction | None]
STEPS: dict[DirectionFunction, StepFunction] = {adam: adam_step}


def _adam_averages(
    params: list[Tensor], states: list[dict[str, Any]], amsgrad: bool
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """The averages of gradients and of their squares, and with `amsgrad` the maxima of these; zeros at first."""
    for param, state in zip(params, states, strict=True):
        if "step" not in state:
            state["step"] = torch.tensor(0.0, dtype=torch.float32)
            state["exp_avg"] = torch.zeros_like(param, memory_format=torch.preserve_format)
            state["exp_avg_sq"] = torch.zeros_like(param, memory_format=torch.preserve_format)
        if amsgrad and "max_exp_avg_sq" not in state:
            state["max_exp_avg_sq"] = state["exp_avg_sq"].clone()
    largest = [state["max_exp_avg_sq"] for state in states] if amsgrad else []
    return [state["exp_avg"] for state in states], [state["exp_avg_sq"] for state in states], largest


def _adam_direction(grads: list[Tensor], states: list[dict[str, Any]], group: dict[str, Any]) -> Direction:
    """The direction that the averages come to."""
    (beta1, beta2), eps = group["betas"], group["eps"]
    squares = [state["max_exp_avg_sq" if group["amsgrad"] else "exp_avg_sq"] for state in states]
    steps = torch.stack([state["step"] for state in states]).tolist()
    # m̂ / (√v̂ + ε) = m / (√v + ε √(1 - β₂ᵗ)) · √(1 - β₂ᵗ) / (1 - β₁ᵗ): the corrections cost no pass over the tensors.
    roots = [(1 - beta2**t) ** 0.5 for t in steps]
    eps_of = [eps * root for root in roots]
    scales = [root / (1 - beta1**t) for root, t in zip(roots, steps, strict=True)]
    gradient = Direction(grads, squares, eps_of, roots)
    return Direction([state["exp_avg"] for state in states], squares, eps_of, scales, gradient if beta1 > 0 else None)


def _count(states: list[dict[str, Any]]) -> None:
    """Count a step of every parameter; the counters live on the CPU, so that reading them waits for no device."""
    torch._foreach_add_([state["step"] for state in states], 1.0)


def _is_plain(tensor: Tensor) -> bool:
    """Whether the tensor is one block of single or double precision in the memory of a CPU."""
    return tensor.device.type == "cpu" and tensor.dtype in (torch.float32, torch.float64) and tensor.is_contiguous()
