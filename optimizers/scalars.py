"""Bringing single numbers together, so that they can be read at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def gather(tensors: Sequence[Tensor]) -> Tensor:
    """All entries of the tensors in one vector, on the device of the first; float64 if one of them is, else float32."""
    wide = torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32
    device = tensors[0].device
    if all(t.dtype == wide and t.device == device and not t.dim() for t in tensors):
        return torch.stack(list(tensors)).detach()  # one call instead of three for each tensor
    return torch.cat([t.detach().reshape(-1).to(device, wide, non_blocking=True) for t in tensors])


def require_single(loss: Tensor) -> None:
    """Raises a ValueError for a loss of several entries, or of none."""
    if loss.numel() != 1:
        raise ValueError(f"the loss has to be a single number, got a tensor of shape {tuple(loss.shape)}")


def read_together(*values: Tensor | float) -> list[float]:
    """All entries of the values as Python numbers, with one transfer from the device that holds the tensors."""
    tensors = [value for value in values if isinstance(value, Tensor)]
    numbers = iter(gather(tensors).tolist() if tensors else ())
    flat: list[float] = []
    for value in values:
        flat.extend([next(numbers) for _ in range(value.numel())] if isinstance(value, Tensor) else [float(value)])
    return flat
