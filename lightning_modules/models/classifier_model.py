"""The model that a classifier trains: as loaded, or with an adapter, with parts frozen, compiled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import nn

from lightning_modules.errors import ModelError
from lightning_modules.models.activation_checkpointing import checkpoint_activations
from lightning_modules.models.adapters import AdaptedModel, AdapterConfig, add_adapter
from lightning_modules.models.compilation import compile_model
from lightning_modules.models.pretrained import LoadedModel
from lightning_modules.models.tiny_input import module_order
from lightning_modules.models.trainable_parts import Trainable, freeze_all_but


class ClassifierModel(NamedTuple):
    """A model ready to train.

    Args:
        model: The model.
        new_parameter_names: Those of its parameters that came from no checkpoint.
        module_order: Names of its modules in the order in which they run; empty if that is unknown.
        adapted: The adapter in it, if there is one.
    """

    model: nn.Module
    new_parameter_names: Sequence[str]
    module_order: Sequence[str]
    adapted: AdaptedModel | None


def classifier_model(
    loaded: LoadedModel,
    *,
    adapter: AdapterConfig | str | None,
    trainable: Trainable,
    gradient_checkpointing: bool,
    compile: bool,
) -> ClassifierModel:
    """Make a loaded model ready to train; it is changed in place.

    Args:
        loaded: The model.
        adapter: An adapter's configuration, or the folder of a saved one.
        trainable: Which parameters train.
        gradient_checkpointing: Whether to compute activations again in the backward pass.
        compile: Whether to compile the model.

    Raises:
        ModelError: if the model does not allow one of these, or nothing would be left to train.
    """
    model, new = loaded
    order = module_order(model)
    if gradient_checkpointing:
        checkpoint_activations(model)
    adapted = None if adapter is None else add_adapter(model, adapter, new, order)
    ready: nn.Module = model
    if adapted is not None:
        ready, new, order = adapted.model, adapted.new_parameter_names, module_order(adapted.model)
    try:
        freeze_all_but(ready, trainable, new, order)
    except ValueError as error:
        raise ModelError(str(error)) from error
    if compile:
        compile_model(ready)
    return ClassifierModel(ready, new, order, adapted)
