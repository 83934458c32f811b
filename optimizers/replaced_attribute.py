"""An attribute of an object with another value for a while, such as a method that is watched."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def replaced_attribute(owner: object, name: str, value: Any) -> Iterator[None]:
    """Give an object another value of an attribute within a context; then its own one, or its class's, is back.

    Args:
        owner: The object.
        name: The attribute.
        value: What it is within the context.

    Example:
        >>> from torch import nn
        >>> with replaced_attribute(model := nn.Linear(2, 1), "forward", len):
        ...     model([1, 2, 3])
        3
    """
    is_own, before = name in vars(owner), getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if is_own:
            setattr(owner, name, before)
        else:
            delattr(owner, name)
