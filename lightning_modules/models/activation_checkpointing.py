"""Activation checkpointing: a backward pass that computes activations again in place of keeping them."""

from __future__ import annotations

from transformers import PreTrainedModel

from lightning_modules.errors import ModelError


def checkpoint_activations(model: PreTrainedModel) -> None:
    """Let a model compute the activations of each layer again in its backward pass, with the same dropout masks.

    Args:
        model: A Hugging Face model.

    Raises:
        ModelError: if the architecture has no support for it.
    """
    if not model.supports_gradient_checkpointing:
        raise ModelError(f"gradient_checkpointing: {type(model).__name__} does not support it; leave it out")
    # transformers renamed it within version 5.
    enable = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
    enable({"use_reentrant": False})
