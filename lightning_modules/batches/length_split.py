"""Splitting a batch into parts of similar length: less padding, the same loss."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_modules.batches.batch_rows import Batch, count_examples, names_by_token
from lightning_modules.errors import ModelError


def split_by_length(batch: Batch, parts: int) -> list[Batch]:
    """Sort a batch's rows by length and cut it into parts, each padded as if it were a batch of its own.

    A batch is as wide as its longest row, and where lengths differ most of it is padding: 67 percent of the tokens of a
    batch of 32 sentences of SST-2. In 4 parts it is 28 percent, and a pass takes less than half of the arithmetic. The
    mean loss over the rows is unchanged; only dropout masks, drawn in the shape of a part, are others.

    Args:
        batch: Tensors whose first dimension is the example; those as wide as ``attention_mask`` are cut in width
            too, except ``labels``.
        parts: How many parts, of equal size as far as that goes; no more than there are rows.

    Returns:
        The parts, the longest rows first, so that a lack of memory shows at once.

    Raises:
        ModelError: if there is no ``attention_mask`` to tell the lengths by.

    Example::

        >>> batch = {"attention_mask": torch.tensor([[1, 0, 0], [1, 1, 1]]), "labels": torch.tensor([0, 1])}
        >>> [part["labels"].tolist() for part in split_by_length(batch, 2)]
        [[1], [0]]
    """
    if parts == 1:
        return [batch]
    if "attention_mask" not in batch:
        raise ModelError("split_by_length: the batches have no attention_mask, which gives the length of a row")
    mask = batch["attention_mask"]
    rows_of_parts = longest_first(mask).tensor_split(min(parts, count_examples(batch)))
    columns = torch.arange(mask.shape[1], device=mask.device)
    by_token = names_by_token(batch)
    bounds = []
    for rows in rows_of_parts:
        used = mask[rows].any(dim=0)
        # Tokenizers pad on either side.
        first = columns.where(used, mask.shape[1]).amin()
        last = columns.where(used, -1).amax()
        bounds.append(torch.stack([first, last + 1]))
    split = []
    # One transfer from the device for all parts.
    for rows, (first, end) in zip(rows_of_parts, torch.stack(bounds).tolist(), strict=True):
        split.append(
            {name: tensor[rows][:, first:end] if name in by_token else tensor[rows] for name, tensor in batch.items()}
        )
    return split


def longest_first(mask: Tensor) -> Tensor:
    """Return the order of a batch's rows in its parts, laid one behind the other.

    Args:
        mask: The batch's attention mask.
    """
    return mask.sum(dim=1).argsort(descending=True, stable=True)
