"""Refusing a checkpoint that is of another model or another optimizer, before torch loads it silently."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_modules.errors import ModelError


def check_architecture(checkpoint: dict[str, Any], expected: Mapping[str, Tensor], model: str) -> None:
    """Check that a checkpoint's tensors are those of a model, by name and shape.

    Args:
        checkpoint: A Lightning checkpoint.
        expected: The module's own state.
        model: What the model is called in the error.

    Raises:
        ModelError: if they are not; it names the first tensor that differs.
    """
    stored = checkpoint["state_dict"]
    for name in sorted(stored.keys() | expected.keys()):
        found = tuple(stored[name].shape) if name in stored else "absent"
        wanted = tuple(expected[name].shape) if name in expected else "absent"
        if found != wanted:
            raise ModelError(
                f"ckpt_path: the checkpoint is of another architecture than {model}: {name} is {found} in the "
                f"checkpoint and {wanted} in the model"
            )


def check_optimizer_state(checkpoint: dict[str, Any], optimizer: Optimizer) -> None:
    """Check that a checkpoint's optimizer state is one that an optimizer can go on from.

    Torch loads the state of one optimizer into another without a word, step sizes and all.

    Args:
        checkpoint: A Lightning checkpoint that a fit resumes from.
        optimizer: The run's optimizer, freshly made. Its method ``check_state``, where it has one, raises a ValueError
            for a state that it cannot load.

    Raises:
        ModelError: if the state is of another optimizer, of an older version of it, or of other parameter groups.
    """
    if not checkpoint.get("optimizer_states"):
        return
    (stored,), name = checkpoint.get("optimizer_names", [None]), type(optimizer).__name__
    if stored not in (None, name):
        raise ModelError(
            f"ckpt_path: the checkpoint's optimizer is {stored}, the run's is {name}; resume with {stored}"
        )
    try:
        getattr(optimizer, "check_state", lambda state: None)(checkpoint["optimizer_states"][0])
    except ValueError as error:
        raise ModelError(f"ckpt_path: {error}") from error
    if "param_groups" not in checkpoint["optimizer_states"][0]:
        return  # a wrapper around another optimizer (pytorch_optimizer's Lookahead), with a form of its own
    both = checkpoint["optimizer_states"][0]["param_groups"], optimizer.param_groups
    theirs, ours = ([len(group["params"]) for group in groups] for groups in both)
    if theirs != ours:
        raise ModelError(
            f"ckpt_path: the checkpoint's optimizer has groups of {theirs} tensors, the run's of {ours}; resume with "
            "the checkpoint's param_groups, trainable and adapter"
        )


def check_moved_parameters(optimizer: Optimizer, module: nn.Module) -> None:
    """Check that an optimizer, its state loaded, still moves a module's parameters.

    torchzero 0.4.4 keeps the parameters themselves in its state, and takes the checkpoint's in place of the model's.

    Args:
        optimizer: The optimizer of a run that resumes.
        module: The module that trains.

    Raises:
        ModelError: if one of its parameters is not the module's.
    """
    own = {id(parameter) for parameter in module.parameters()}
    if any(id(parameter) not in own for group in optimizer.param_groups for parameter in group["params"]):
        raise ModelError(
            f"ckpt_path: {type(optimizer).__name__} cannot be resumed: with its state it takes the checkpoint's "
            "parameters in place of the model's; start anew, or choose another optimizer"
        )
