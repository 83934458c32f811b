"""The rows of an embedding table that a batch uses: the others need no arithmetic."""

from __future__ import annotations

import torch
from torch import Tensor

# A matrix of more entries than this, and of so many times more rows than columns, is taken for a table.
_LEAST_ENTRIES, _LEAST_RATIO = 1 << 20, 4
# Up to this share of the rows, choosing them takes less time and memory than computing with all.
_LARGEST_SHARE = 0.25


def rows_in_use(*tensors: Tensor) -> Tensor | None:
    """Return the indices of the rows in which one of some tensors of a shape has an entry that is not zero.

    Args:
        tensors: For example a gradient and its average.

    Returns:
        The indices; None for all rows: of a tensor that is no table, of a table with many rows in use, and on a device,
        which would have to be waited for.
    """
    first = tensors[0]
    if first.device.type != "cpu" or first.dim() != 2 or first.numel() < _LEAST_ENTRIES:
        return None
    rows, columns = first.shape
    if rows <= _LEAST_RATIO * columns or not all(tensor.is_contiguous() for tensor in tensors):
        return None
    # Zeros are zero bytes, whose maximum takes one fast pass (a negative zero counts as in use).
    largest = [tensor.view(torch.uint8).amax(1) for tensor in tensors]
    used = torch.stack(largest).amax(0).nonzero().squeeze(1)
    return used if len(used) <= _LARGEST_SHARE * rows else None


def of_rows(tensor: Tensor, rows: Tensor | None) -> Tensor:
    """Return a copy of some rows of a table; the tensor itself where all rows count."""
    return tensor if rows is None else tensor.index_select(0, rows)
