"""The number of examples in any batch, the numbers of its rows, and what of it is by token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor

from lightning_modules.errors import ModelError

# What a Hugging Face model takes.
Batch = dict[str, Any]
# How many of a batch's row numbers a line lists.
_LISTED_ROWS = 64


def count_examples(batch: Any) -> int:
    """Return the number of examples in a batch: the first dimension of its first tensor.

    Where a tensor ``text`` says which text each row is a window of, it is the number of texts: that of the rows of
    ``labels`` or ``idx``.

    Args:
        batch: A tensor, or a mapping, sequence or dataclass of such.

    Raises:
        ModelError: if there is no tensor in it, or no example.
    """
    is_windows = isinstance(batch, Mapping) and isinstance(batch.get("text"), Tensor)
    count = _first_dimension(batch.get("labels", batch.get("idx", batch["text"])) if is_windows else batch)
    if not count:
        raise ModelError(
            f"a batch of no examples: {type(batch).__name__} without a tensor that has rows; where its examples are "
            "counted in another way, define mean_over(batch), which returns their number"
        )
    return count


def rows_of(batches: Sequence[Any]) -> str:
    """Return the row numbers of some batches (``idx``), or where they have none, how many examples they are of."""
    if not all(isinstance(batch, Mapping) and isinstance(batch.get("idx"), Tensor) for batch in batches):
        try:
            return f"of {sum(map(count_examples, batches))} examples without row numbers (idx)"
        except ModelError:  # an object that only a module's mean_over knows
            return f"of type {type(batches[0]).__name__}, without row numbers (idx)"
    rows = [row for batch in batches for row in batch["idx"].reshape(-1).tolist()]
    more = f", … ({len(rows)} in all)" if len(rows) > _LISTED_ROWS else ""
    return f"of rows {', '.join(map(str, rows[:_LISTED_ROWS]))}{more}"


def names_by_token(batch: Batch) -> set[str]:
    """Return the names of a batch's tensors that have an entry for each token, as many as ``attention_mask``.

    ``labels`` are none, also where there happen to be as many labels per text as tokens.
    """
    shape = batch["attention_mask"].shape
    return {name for name, tensor in batch.items() if name != "labels" and tensor.shape[:2] == shape}


def _first_dimension(batch: Any) -> int | None:
    if isinstance(batch, Tensor):
        return batch.shape[0] if batch.ndim else None
    if isinstance(batch, str):
        return None
    if is_dataclass(batch):
        batch = {each.name: getattr(batch, each.name) for each in fields(batch)}
    parts = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, Sequence) else ()
    return next((count for part in parts if (count := _first_dimension(part)) is not None), None)
