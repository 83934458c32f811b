"""Refusing parameters without a gradient, which DDP would wait for."""

from __future__ import annotations

from lightning.pytorch import Trainer
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from lightning_modules.errors import ModelError


def check_gradients_of_ranks(trainer: Trainer, module: nn.Module) -> None:
    """Refuse, in the first step, parameters without a gradient that DDP would wait for in the second.

    Args:
        trainer: The trainer, after a backward pass.
        module: The module.

    Raises:
        ModelError: if there are some; it names the first and the strategy to take.
    """
    model = trainer.strategy.model
    if not isinstance(model, DistributedDataParallel) or model.find_unused_parameters or model.static_graph:
        return
    unused = [
        name for name, parameter in module.named_parameters() if parameter.requires_grad and parameter.grad is None
    ]
    if unused:
        raise ModelError(
            f"trainer.strategy: {len(unused)} parameters get no gradient ({unused[0]}, …), which ddp waits for; take "
            "ddp_find_unused_parameters_true"
        )
