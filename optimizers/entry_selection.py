"""Which entries of a tensor move: all of them, or a subset chosen by chance or by importance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from optimizers.checks import require
from optimizers.perturbation import flat_view
from optimizers.shards import flat_part, gathered, is_sharded
from optimizers.step_contract import Closure

Selection = Literal["all", "random", "largest", "fisher"]


def subset_count(numel: int, size: int | float | None) -> int:
    """Return how many of `numel` entries a subset has.

    Args:
        numel: The number of entries of the tensor.
        size: An integer is a number of entries (all of them where the tensor has fewer), a float in (0, 1] a share,
            rounded up; None is all.

    Raises:
        ValueError: The size leaves no entry, or is a share above 1.
    """
    if size is None:
        return numel
    is_size = not isinstance(size, bool) and size > 0 and (isinstance(size, int) or size <= 1)
    require(is_size, "subset_size", size, "a number of entries from 1 on, or a share in (0, 1]")
    return min(numel, size if isinstance(size, int) else math.ceil(size * numel))


def select_entries(tensor: Tensor, selection: Selection, count: int, seed: int) -> Tensor | None:
    r"""Return the positions of the entries that move, in memory order, on the tensor's device; None where all do.

    Args:
        tensor: A dense tensor. For `fisher`, its `grad` says which entries are important: the diagonal of the Fisher
            information is estimated by the squared gradient of a batch, :math:`F_{ii} ≈ (∂L/∂p_i)^2`.
        selection: `random` draws positions uniformly; `largest` takes the largest magnitudes; `fisher` the largest
            estimates of Fisher information.
        count: The number of positions.
        seed: The seed of a random draw, which is made on the CPU and so the same for every device.
    """
    if selection == "all" or count >= tensor.numel():
        return None
    if selection == "random":
        return chosen_at_random(tensor.numel(), count, seed).to(tensor.device)
    if is_sharded(tensor):
        part, begin, _ = flat_part(tensor if selection == "largest" or tensor.grad is None else tensor.grad)
        scores = torch.zeros_like(part) if selection == "fisher" and tensor.grad is None else part.abs()
        own = scores.topk(min(count, scores.numel()), sorted=False)
        values, positions = gathered(own.values, -1.0), gathered(own.indices + begin, -1)
        return positions[values.topk(count, sorted=False).indices].sort().values
    if selection == "largest":
        scores = flat_view(tensor).abs()
    elif tensor.grad is None:
        scores = torch.zeros(tensor.numel(), device=tensor.device)
    else:
        # In the same order as the entries, whatever the gradient's own memory order is.
        scores = flat_view(torch.empty_like(tensor, memory_format=torch.preserve_format).copy_(tensor.grad)).square()
    return scores.topk(count, sorted=False).indices.sort().values


def chosen_at_random(numel: int, count: int, seed: int) -> Tensor:
    """Return `count` distinct positions below `numel`, sorted, drawn uniformly on the CPU.

    Args:
        numel: The number of positions to choose from.
        count: How many to choose, at most `numel`.
        seed: The seed of the draw.
    """
    generator = torch.Generator().manual_seed(seed)
    if 2 * count > numel:
        return torch.randperm(numel, generator=generator)[:count].sort().values
    chosen = torch.empty(0, dtype=torch.int64)
    while chosen.numel() < count:
        drawn = torch.randint(numel, (count - chosen.numel() + count // 8 + 8,), generator=generator)
        chosen = torch.cat((chosen, drawn)).unique()
    # The surplus is dropped at random: dropping the largest would favour the front.
    kept = torch.randperm(chosen.numel(), generator=generator)[:count]
    return chosen[kept].sort().values


def compute_gradients(tensors: Sequence[Tensor], closure: Closure) -> None:
    """Run a closure so that it writes the gradients of some tensors, even where they have `requires_grad=False`.

    Args:
        tensors: Leaf tensors.
        closure: Computes a loss and runs backward.
    """
    required = [tensor.requires_grad for tensor in tensors]
    try:
        for tensor in tensors:
            tensor.requires_grad_(True)
        with torch.enable_grad():
            closure()
    finally:
        for tensor, before in zip(tensors, required, strict=True):
            tensor.requires_grad_(before)
