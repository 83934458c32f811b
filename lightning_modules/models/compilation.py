"""Compiling a model, or a module's loss, so that trials still see the random numbers of their step."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.compile import to_uncompiled
from torch import nn

from optimizers.checks import require_private


def compile_model(model: nn.Module) -> None:
    """Compile a model in place by torch.compile; dropout masks stay those of the uncompiled model.

    Args:
        model: The model; names of its parameters stay as they are.
    """
    model.compile(options={"fallback_random": True})


def compile_loss_alone(module: LightningModule) -> None:
    """Compile ``compute_loss`` of a module in place of its steps.

    Lightning compiles the steps of what ``torch.compile(module)`` returns. A step under manual
    optimization runs the optimizer and its trials, which torch.compile cannot trace.

    Args:
        module: A module with ``compute_loss``; nothing is done to one that Lightning has not compiled.

    Raises:
        RuntimeError: if lightning is of a version that this was not written for.
    """
    require_private(module, LightningModule, "_compiler_ctx")
    context: dict[str, Any] | None = module._compiler_ctx
    if context is not None:
        to_uncompiled(module)
        module.compute_loss = context["dynamo_ctx"](module.compute_loss)
