"""Refusing a checkpoint that is of another model or another optimizer, before torch loads it silently."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
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
    if "state_dict" not in checkpoint:
        return  # a distributed checkpoint, whose tensors have been compared when they were loaded
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
    both = checkpoint["optimizer_states"][0]["param_groups"], optimizer.param_groups
    theirs, ours = ([len(group["params"]) for group in groups] for groups in both)
    if theirs != ours:
        raise ModelError(
            f"ckpt_path: the checkpoint's optimizer has groups of {theirs} tensors, the run's of {ours}; resume with "
            "the checkpoint's param_groups, trainable and adapter"
        )
