"""Checks of arguments, whose errors name the argument, what was given and what is allowed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def require(holds: bool, name: str, value: Any, allowed: str) -> None:
    """Raise a ValueError unless a condition holds.

    Args:
        holds: The condition.
        name: The argument that it is about.
        value: What was given.
        allowed: What is allowed.
    """
    if not holds:
        raise ValueError(f"{name}: {value!r} is not allowed; {allowed}")


def require_one_of(name: str, value: Any, allowed: Sequence[Any]) -> None:
    """Raise a ValueError unless the argument `name` has one of the allowed values."""
    require(value in allowed, name, value, "one of " + ", ".join(allowed))
