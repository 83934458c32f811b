"""Checks of arguments, and of the versions of other libraries, whose errors say what is wrong in one line."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from numbers import Integral
from operator import attrgetter
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


def require_integer(name: str, value: Any, least: int | None = None, or_none: bool = False) -> None:
    """Raise a ValueError unless the argument `name` is an integer.

    Those of NumPy count; True and False do not, nor does a float that happens to be whole, as a division gives.

    Args:
        name: The argument.
        value: What was given.
        least: The least integer that is allowed; None allows all.
        or_none: Whether None is allowed too.
    """
    if or_none and value is None:
        return
    is_integer = isinstance(value, Integral) and not isinstance(value, bool)
    bound = "" if least is None else f", at least {least}"
    holds = is_integer and (least is None or value >= least)
    require(holds, name, value, f"an integer{bound}{', or None' if or_none else ''}")


def require_private(owner: object, kind: type, *names: str) -> None:
    """Raise a RuntimeError unless an object has what is used of another library's class and is not public there.

    Args:
        owner: The object.
        kind: The class; the error names it, with its library's version.
        names: The attributes, ``a.b`` for one of an attribute.
    """
    missing = [name for name in names if not _has(owner, name)]
    if missing:
        library = kind.__module__.partition(".")[0]
        version = sys.modules[library].__version__
        raise RuntimeError(f"{library} {version}: {kind.__name__} has no {', '.join(missing)}")


def _has(owner: object, name: str) -> bool:
    try:
        attrgetter(name)(owner)
    except AttributeError:
        return False
    return True
