"""Reading several numbers from a device with one synchronisation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, SupportsFloat

import torch
from torch import Tensor


def gather(tensors: Sequence[Tensor]) -> Tensor:
    """Return all entries of some tensors in one vector, on the device of the first.

    The vector is float64 if one of the tensors is, else float32.
    """
    wide = torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32
    device = tensors[0].device
    if all(t.dtype == wide and t.device == device and not t.dim() for t in tensors):
        return torch.stack(list(tensors)).detach()  # one call instead of three for each tensor
    return torch.cat([t.detach().reshape(-1).to(device, wide, non_blocking=True) for t in tensors])


def require_single(loss: Any) -> None:
    """Raise a ValueError for a loss that is no single real number, as a dict or a tensor of several entries."""
    if not isinstance(loss, Tensor):
        got = None if isinstance(loss, SupportsFloat) else type(loss).__name__
    elif loss.numel() != 1:
        got = f"tensor of shape {tuple(loss.shape)}"
    else:
        got = "complex tensor" if loss.is_complex() else None
    if got is not None:
        raise ValueError(f"the loss has to be a single number, got a {got}; return the loss alone")


def read_together(*values: Tensor | float) -> list[float]:
    """Return all entries of some values as Python numbers, with one transfer from the device that holds the tensors."""
    tensors = [value for value in values if isinstance(value, Tensor)]
    numbers = iter(gather(tensors).tolist() if tensors else ())
    flat: list[float] = []
    for value in values:
        flat.extend([next(numbers) for _ in range(value.numel())] if isinstance(value, Tensor) else [float(value)])
    return flat
