"""Freezing all of a model except its head or its new parameters."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Literal

from torch import nn

from optimizers import named_parts

Trainable = Literal["all", "head", "new"]


def freeze_all_but(
    model: nn.Module, trainable: Trainable, new_parameter_names: Collection[str] = (), order: Sequence[str] = ()
) -> None:
    """Set ``requires_grad`` so that only a part of a model trains.

    Args:
        model: A model that :func:`~optimizers.named_parts` can divide.
        trainable: ``all`` leaves the model as it is; ``head`` freezes all below the head, except what did not come from
            a checkpoint; ``new`` freezes all but the latter.
        new_parameter_names: Names of the parameters that did not come from a checkpoint.
        order: The order in which the model's modules run, of :func:`~optimizers.call_order`.

    Raises:
        ValueError: if nothing would be left to train.

    Example::

        freeze_all_but(bert, "head")  # the pooler and the classifier train
    """
    if trainable == "all":
        return
    kept = set(new_parameter_names)
    if trainable == "head":
        kept = head_names(model, order) | new_beside_old(model, new_parameter_names)
    if not kept:
        why = ": its checkpoint holds every parameter" if trainable == "new" else ""
        raise ValueError(f"trainable: {trainable} leaves nothing to train in a {type(model).__name__}{why}")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in kept)


def head_names(model: nn.Module, order: Sequence[str] = ()) -> set[str]:
    """Return the names of the trainable parameters of a model's head."""
    return {name for part in named_parts(model, order) if part.kind == "head" for name, _ in part.parameters}


def new_beside_old(model: nn.Module, new_parameter_names: Collection[str]) -> set[str]:
    """Return the names of the parameters that came from no checkpoint; none if all of the model's are of that kind."""
    new = set(new_parameter_names)
    return new if any(name not in new for name, _ in model.named_parameters()) else set()


def frozen_modules(model: nn.Module) -> list[nn.Module]:
    """Return the largest modules with parameters of which none trains, from the bottom to the top."""
    parameters = list(model.parameters())
    if not any(parameter.requires_grad for parameter in parameters):
        return [model] if parameters else []
    return [frozen for child in model.children() for frozen in frozen_modules(child)]
