"""Which modules of a model are in train mode."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn


def training_modes(model: nn.Module) -> dict[nn.Module, bool]:
    """Return whether each module of a model is in train mode, outer modules first."""
    return {module: module.training for module in model.modules()}


def restore_modes(modes: Mapping[nn.Module, bool]) -> None:
    """Put modules back into the modes of :func:`training_modes`, through ``train`` where a module defines its own.

    To set the attribute ``training`` alone would leave out what such a module does there: LeViT drops attention biases
    that it has kept since an evaluation, loralib takes LoRA out of the weights.

    Example::

        modes = training_modes(model)
        model.eval()
        restore_modes(modes)
    """
    for module, mode in modes.items():
        if getattr(module.train, "__func__", None) is not nn.Module.train:
            module.train(mode)
    for module, mode in modes.items():  # last: a `train` changes the modules within, too
        module.training = mode
