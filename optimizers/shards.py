"""Parameters that are divided among ranks (DTensors): a rank works on its own shard, and sums go over all of them."""

from __future__ import annotations

import math
import sys
from collections import UserDict
from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def is_sharded(tensor: Tensor) -> bool:
    """Return whether a tensor is a DTensor: divided among ranks, or kept by several of them as one."""
    # Importing the module takes as long as torch itself, and without it there are no such tensors.
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


@torch.no_grad()
def local_part(tensor: Any) -> Tensor:
    """Return the rank's own part of a tensor, which shares its memory; the tensor itself if it is not a DTensor."""
    return tensor.to_local() if is_sharded(tensor) else tensor


def share_of(tensor: Tensor) -> float:
    """Return what a rank's part contributes to a sum over all ranks: one divided by the number of ranks that hold it.

    Args:
        tensor: A tensor of an optimizer that has some sharded ones.
    """
    return math.prod(size for _, size in _divisions(tensor)) / dist.get_world_size()


def _divisions(tensor: Any) -> list[tuple[int, int]]:
    """Return the dimensions of the mesh along which a tensor is divided, with their sizes; none for a plain tensor."""
    if not is_sharded(tensor):
        return []
    sizes = enumerate(tensor.device_mesh.shape)
    return [pair for pair, placement in zip(sizes, tensor.placements, strict=True) if not placement.is_replicate()]


def flat_part(tensor: Any) -> tuple[Tensor, int, int]:
    """Return a rank's own part of a sharded tensor, flat; where it begins among all entries; how many these are.

    Raises:
        ValueError: The part is not a range of the entries: the tensor is divided along another dimension than the
            first, or along several dimensions of the mesh.
    """
    part, divisions = local_part(tensor), _divisions(tensor)
    if not divisions:
        return part.view(-1), 0, part.numel()
    (dimension, ranks), *others = divisions
    size = math.ceil(tensor.shape[0] / ranks)
    first = min(tensor.device_mesh.get_local_rank(dimension) * size, tensor.shape[0])
    rows = min(size, tensor.shape[0] - first)
    is_range = tensor.placements[dimension].is_shard(0) and part.is_contiguous()
    if others or not is_range or part.shape != (rows, *tensor.shape[1:]):
        raise ValueError(
            f"a parameter of shape {tuple(tensor.shape)} is sharded as {tensor.placements}: gradient-free optimizers "
            "need shards along the first dimension alone, as fully_shard makes them"
        )
    return part.view(-1), first * math.prod(tensor.shape[1:]), tensor.numel()


def sum_over_ranks(values: Tensor) -> Tensor:
    """Return the sums of the ranks' values, the same bits on every rank."""
    total = values.detach().clone()
    dist.all_reduce(total)
    return total


def largest_over_ranks(values: Tensor) -> Tensor:
    """Return the largest of the ranks' values, entry by entry; NaN where one of them is NaN."""
    largest = torch.where(values.isnan(), torch.inf, values.detach())
    unknown = values.isnan().to(values.dtype)
    dist.all_reduce(both := torch.stack([largest, unknown]), dist.ReduceOp.MAX)
    return torch.where(both[1] > 0, torch.nan, both[0])


def gathered(values: Tensor, filler: float) -> Tensor:
    """Return the vectors of all ranks in one, on every rank; the shorter ones are filled up."""
    longest = torch.tensor(len(values), device=values.device)
    dist.all_reduce(longest, dist.ReduceOp.MAX)
    padded = values.new_full((int(longest),), filler)
    padded[: len(values)] = values
    parts = [torch.empty_like(padded) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, padded)
    return torch.cat(parts)


def true_on_all_ranks(flag: Tensor) -> Tensor:
    """Return whether a flag is true on every rank."""
    found = flag.to(torch.int32)
    dist.all_reduce(found, dist.ReduceOp.MIN)
    return found.bool()


class ShardState(UserDict[str, Any]):
    """An optimizer's state of a sharded parameter, with the rank's own part of each tensor.

    A tensor of the shard's shape that is put in becomes a DTensor of the parameter's layout in the optimizer's own
    state, on the same memory: so `torch.distributed.checkpoint` saves it, and any number of ranks loads it.

    Args:
        state: The optimizer's state of the parameter.
        param: The parameter, a DTensor.
    """

    def __init__(self, state: dict[str, Any], param: Tensor) -> None:
        super().__init__()
        self._state, self._param = state, param
        self.data = {name: local_part(v) if isinstance(v, Tensor) else v for name, v in state.items()}

    def __setitem__(self, name: str, value: Any) -> None:
        self.data[name] = value
        self._state[name] = as_sharded(value, self._param) if isinstance(value, Tensor) else value


@torch.no_grad()
def as_sharded(value: Tensor, param: Any) -> Tensor:
    """Return a rank's part as a DTensor of a parameter's layout, on the same memory; other shapes as they are."""
    if is_sharded(value) or value.dim() == 0 or value.shape != local_part(param).shape:
        return value
    layout = {"shape": param.shape, "stride": param.stride()}
    return type(param.detach()).from_local(value, param.device_mesh, param.placements, run_check=False, **layout)


def states_of(params: Iterable[Tensor], state: Mapping[Tensor, dict[str, Any]]) -> list[Any]:
    """Return the optimizer's states of some parameters, with the rank's own parts where they are sharded."""
    return [ShardState(state[param], param) if is_sharded(param) else state[param] for param in params]


def asks_for_state(groups: Iterable[Mapping[str, Any]], *given: Any) -> bool:
    """Return whether a step is called only to create the optimizer's state, as `torch.distributed.checkpoint` does.

    Before it loads a state it calls `step()` with nothing, with gradients and all learning rates at 0 (torch 2.13,
    `_init_optim_state`).

    Args:
        groups: The optimizer's groups.
        given: The arguments of the step.
    """
    return all(each is None for each in given) and all(group["lr"] == 0 for group in groups)


def complete_state(optimizer: torch.optim.Optimizer) -> None:
    """Make all of a new optimizer's state, so that `torch.distributed.checkpoint` finds the tensors that it is to fill.

    It does so itself for an optimizer without any state; one that keeps anchors has some from the start.

    Args:
        optimizer: An optimizer of this package that has made no step.
    """
    params = [param for group in optimizer.param_groups for param in group["params"] if param.requires_grad]
    rates = [group["lr"] for group in optimizer.param_groups]
    for param in params:
        param.grad = torch.zeros_like(param)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    optimizer.step()
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    for state in optimizer.state.values():
        if "step" in state:  # all averages are still zero
            state["step"].zero_()
    optimizer.zero_grad()
