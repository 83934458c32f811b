"""Decoupled weight decay: of pretrained parameters towards their pretrained values, of new ones towards zero."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


def decay_towards(
    params: list[Tensor], anchors: list[Tensor] | None, strength: float, start: list[Tensor] | None = None
) -> None:
    r"""Move parameters towards their anchors, in place: :math:`θ ← θ - s (θ' - θ^0)`.

    Args:
        params: :math:`θ`, the parameters.
        anchors: :math:`θ^0`, what each is decayed towards, on any device. None: zero.
        strength: :math:`s`, the learning rate times the decay; 0 does nothing.
        start: :math:`θ'`, the parameters at the start of the step. None: they have not moved since, :math:`θ' = θ`, and
            a strength of 1 arrives at the anchors.

    Example::

        decay_towards(params, [p.clone() for p in params], lr * anchor_decay)
    """
    if not params or strength == 0:
        return
    if anchors is None:
        if start is None:
            torch._foreach_mul_(params, 1 - strength)
        else:
            torch._foreach_add_(params, start, alpha=-strength)
        return
    here = [
        anchor.to(param.device, param.dtype, non_blocking=True) for param, anchor in zip(params, anchors, strict=True)
    ]
    if start is None:
        torch._foreach_lerp_(params, here, strength)
    else:
        torch._foreach_add_(params, torch._foreach_sub(here, start), alpha=strength)


def keep_anchors(optimizer: Optimizer, group: dict[str, Any]) -> None:
    """Keep the present values of a group's pretrained parameters in `optimizer.state[p]["anchor"]`.

    Call it when the group is added, while the parameters are at their pretrained values. The anchors are saved with the
    optimizer's state, and a resumed run loads them.

    Args:
        optimizer: The optimizer.
        group: One of its groups, with the keys `anchor_decay` (at 0, the default, there are no anchors), `new` (which
            parameters did not come from the checkpoint and have no anchor: one flag, or one per parameter; default:
            none is new) and `anchor_device` (`parameter`, the default, or `cpu`, from where they are copied over in
            each step).

    Raises:
        ValueError: There are more or fewer flags than parameters.
    """
    flags = new_flags(group)
    if len(flags) != len(group["params"]):
        raise ValueError(f"new: {len(flags)} flags for {len(group['params'])} parameters")
    if not group.get("anchor_decay", 0):
        return
    for param, is_new in zip(group["params"], flags, strict=True):
        if not is_new:
            optimizer.state[param]["anchor"] = _placed(param.detach(), param, group, copy=True)


def require_anchors(state_dict: dict[str, Any]) -> None:
    """Raise an error for a state that lacks an anchor, before it is loaded.

    Args:
        state_dict: A state of an optimizer that keeps anchors, as `state_dict()` returns it.

    Raises:
        ValueError: It holds no anchor for a parameter that decays towards one.
    """
    for group in state_dict["param_groups"]:
        for index, is_new in zip(group["params"], new_flags(group), strict=True):
            if group.get("anchor_decay", 0) and not is_new and "anchor" not in state_dict["state"].get(index, {}):
                raise ValueError(
                    f"the state to load holds no anchor for parameter {index}: it was saved without anchor_decay"
                )


def require_kept_anchors(optimizer: Optimizer) -> None:
    """Raise an error before a step where `anchor_decay` was raised from 0 after the pretrained values were gone.

    Args:
        optimizer: An optimizer whose groups were handed to :func:`keep_anchors` when they were added.

    Raises:
        ValueError: A group decays towards anchors that were not kept.
    """
    for group in optimizer.param_groups:
        if not group.get("anchor_decay", 0):
            continue
        for param, is_new in zip(group["params"], new_flags(group), strict=True):
            if not is_new and "anchor" not in optimizer.state.get(param, {}):
                raise ValueError(
                    f"anchor_decay: {group['anchor_decay']} needs the pretrained values, which were not kept since it "
                    "was 0 when the optimizer was made; make it with an anchor_decay above 0"
                )


def place_anchors(optimizer: Optimizer) -> None:
    """Move anchors that `load_state_dict` has loaded to the device that `anchor_device` names."""
    for group in optimizer.param_groups:
        for param in group["params"]:
            if "anchor" in optimizer.state.get(param, {}):
                optimizer.state[param]["anchor"] = _placed(optimizer.state[param]["anchor"], param, group)


def anchors_of(params: list[Tensor], states: list[dict[str, Any]], group: dict[str, Any]) -> list[Tensor]:
    """Return the anchors of some parameters that have one, on the device that `anchor_device` names.

    Lightning's Trainer moves the whole state of an optimizer to the training device; this moves anchors back.

    Args:
        params: Parameters of the group.
        states: Their optimizer states.
        group: The group.
    """
    for param, state in zip(params, states, strict=True):
        if group.get("anchor_device") == "cpu" and state["anchor"].device.type != "cpu":
            state["anchor"] = _placed(state["anchor"], param, group)
    return [state["anchor"] for state in states]


def apply_decay(
    params: list[Tensor],
    states: list[dict[str, Any]],
    group: dict[str, Any],
    step_size: float,
    start: list[Tensor] | None = None,
) -> None:
    r"""Decay the parameters of a step, in place: towards their anchors where they have one, else towards zero.

    .. math:: θ ← θ - η λ_a (θ - θ^0) \quad\text{or}\quad θ ← θ - η λ_w θ

    with :math:`λ_a` the group's `anchor_decay` and :math:`λ_w` its `weight_decay`.

    Args:
        params: :math:`θ`, the parameters of one group that take part in the step.
        states: Their optimizer states, which hold the anchors (:func:`keep_anchors`).
        group: Their group.
        step_size: :math:`η`.
        start: The parameters at the start of the step, if they have moved since.
    """
    for anchored, decay in ((True, "anchor_decay"), (False, "weight_decay")):
        chosen = [i for i, state in enumerate(states) if ("anchor" in state) == anchored]
        decay_towards(
            [params[i] for i in chosen],
            anchors_of([params[i] for i in chosen], [states[i] for i in chosen], group) if anchored else None,
            step_size * group.get(decay, 0.0),
            None if start is None else [start[i] for i in chosen],
        )


def new_flags(group: dict[str, Any]) -> Sequence[bool]:
    """Return one flag per parameter of a group: whether it did not come from the checkpoint."""
    new = group.get("new", False)
    return [new] * len(group["params"]) if isinstance(new, bool) else new


def _placed(value: Tensor, param: Tensor, group: dict[str, Any], copy: bool = False) -> Tensor:
    if group.get("anchor_device", "parameter") == "parameter":
        return value.to(param.device, copy=copy)
    value = value.to("cpu", copy=copy)
    # Page-locked memory is what makes the copy to the device asynchronous.
    return value.pin_memory() if param.is_cuda else value
