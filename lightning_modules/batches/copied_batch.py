"""Copies of a batch with the same tensors, so that a loss may take entries out of it; whether tensors have changed."""

from __future__ import annotations

from collections.abc import MutableMapping, MutableSequence
from copy import copy
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves


def copied(batch: Any) -> Any:
    """Return a batch whose entries and attributes may be taken out and replaced, with the same tensors.

    Args:
        batch: A batch of any kind: containers, also one within another, or an object with attributes.
    """
    if isinstance(batch, MutableMapping):
        return _with_copied_parts(batch, batch.items())
    if isinstance(batch, MutableSequence):
        return _with_copied_parts(batch, enumerate(batch))
    if isinstance(batch, tuple):
        parts = [copied(part) for part in batch]
        changed = any(part is not own for part, own in zip(parts, batch, strict=True))
        return (batch._make(parts) if hasattr(batch, "_make") else type(batch)(parts)) if changed else batch
    # Dataclasses, graphs; a tensor has attributes too.
    has_attributes = hasattr(batch, "__dict__") or hasattr(batch, "__slots__")
    return copy(batch) if has_attributes and not isinstance(batch, Tensor) else batch


def tensor_versions(values: Any) -> list[int]:
    """Return how often each tensor in some containers was changed in place; torch does not count it in inference."""
    return [leaf._version for leaf in tree_leaves(values) if isinstance(leaf, Tensor) and not leaf.is_inference()]


def _with_copied_parts(batch: Any, parts: Any) -> Any:
    new = copy(batch)
    for place, part in parts:
        own = copied(part)
        if own is not part:
            new[place] = own
    return new
