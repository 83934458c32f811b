"""Models whose parameters are sharded over ranks: FSDP2 under Lightning's ModelParallelStrategy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn
from torch.distributed.fsdp import FSDPModule, fully_shard

from lightning_modules.errors import ModelError
from optimizers.named_parts import layer_modules


def shard_model(trainer: Trainer, module: nn.Module, model: nn.Module) -> None:
    """Shard a model over all ranks, layer by layer, if the strategy is ModelParallelStrategy.

    A layer's parameters are gathered for its forward and its backward pass alone. A model without a stack of layers,
    such as a user's own module, is sharded by its largest modules that have a forward pass.

    Args:
        trainer: The trainer.
        module: The Lightning module.
        model: Its model, or the module itself.

    Raises:
        ModelError: if the strategy divides ranks otherwise or gathers checkpoints, or a parameter belongs to no module
            that could be sharded.
    """
    strategy = trainer.strategy
    if not isinstance(strategy, ModelParallelStrategy) or sharded_modules(module):
        return
    ranks = strategy.device_mesh["data_parallel"].size()
    if ranks != trainer.world_size:
        raise ModelError(
            f"trainer.strategy: ModelParallelStrategy with data_parallel_size {ranks} on {trainer.world_size} devices "
            f"does not shard this model; set data_parallel_size: {trainer.world_size} and tensor_parallel_size: 1"
        )
    if not strategy._save_distributed_checkpoint:
        # lightning 2.6.6 with torch 2.13 saves them and fails at loading the optimizer's state.
        raise ModelError(
            "trainer.strategy: save_distributed_checkpoint: false writes checkpoints that no run can go on from; leave "
            "it out: export and runs on one device read the folders as well"
        )
    # The root is resharded as well: it would keep its gathered parameters while a search moves the shards.
    options: dict[str, Any] = {"mesh": strategy.device_mesh["data_parallel"], "reshard_after_forward": True}
    if model is module:
        for part in _largest_with_forward(model):
            fully_shard(part, **options)
    else:
        for layer in layer_modules(model):
            fully_shard(layer, **options)
        fully_shard(model, **options)


def _largest_with_forward(module: nn.Module) -> Iterator[nn.Module]:
    """Return the children that are called, or those of lists and dicts of modules, which are not."""
    own = next((name for name, _ in module.named_parameters(recurse=False)), None)
    if own is not None:
        raise ModelError(
            f"trainer.strategy: the parameter {own} of {type(module).__name__} belongs to no module with a forward "
            "pass, so that it cannot be sharded; put it into one, or define configure_model"
        )
    for child in module.children():
        if isinstance(child, nn.ModuleList | nn.ModuleDict):
            yield from _largest_with_forward(child)
        elif any(True for _ in child.parameters()):
            yield child


def sharded_modules(module: nn.Module) -> list[FSDPModule]:
    """Return the modules within a module that `fully_shard` has been called on."""
    return [each for each in module.modules() if isinstance(each, FSDPModule)]


def reshard(modules: Iterable[FSDPModule]) -> None:
    """Let go of gathered parameters after an evaluation: they would not follow the shards that a search moves."""
    for each in modules:
        each.reshard()
