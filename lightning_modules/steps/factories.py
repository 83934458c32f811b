"""Factories of optimizers and schedules: classes, functions or partials of them, as a configuration names them."""

from __future__ import annotations

import inspect
import sys
import sysconfig
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any


def unset_keywords(factory: Callable[..., Any], offered: dict[str, Any]) -> dict[str, Any]:
    """Return those of ``offered`` that ``factory`` takes and that are not set.

    A keyword is unset when its value, or else its default, is ``None`` (``total_steps`` of torch's ``OneCycleLR``), or
    when it has no default at all. LightningCLI makes ``functools.partial`` objects in which every
    argument from the configuration is a keyword.

    Args:
        factory: A class, a function or a partial of one.
        offered: Keywords by name with the values to fill in.

    Example::

        schedule = partial(OneCycleLR, max_lr=1e-3)
        unset_keywords(schedule, {"total_steps": 80})  # {"total_steps": 80}
    """
    taken = {*getattr(factory, "keywords", {}), *parameters_of(factory)}
    return {name: value for name, value in offered.items() if name in taken and value_of(factory, name) is None}


def value_of(factory: Callable[..., Any], name: str) -> Any:
    """Return the value that a factory's keyword is set to, or else its default; ``None`` without one."""
    given = getattr(factory, "keywords", {})
    parameter = parameters_of(factory).get(name)
    default = None if parameter is None or parameter.default is inspect.Parameter.empty else parameter.default
    return given.get(name, default)


def parameters_of(factory: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """Return the parameters of a factory by name.

    A partial with an argument that its class does not take has no signature: the class's is returned, and the call
    tells which argument that is.

    Args:
        factory: A class, a function or a partial of one.
    """
    try:
        return inspect.signature(factory).parameters
    except ValueError:
        return inspect.signature(getattr(factory, "func", factory)).parameters


def made_by(factory: Callable[..., Any]) -> Callable[..., Any]:
    """Return the class or function that a factory calls."""
    if not isinstance(factory, partial):
        return factory
    # From a configuration, a partial of a function of jsonargparse's (4.53), which gets the class as an argument.
    return next((each for each in (factory.func, *factory.args) if isinstance(each, type)), factory.func)


def name_of(factory: Callable[..., Any]) -> str:
    """Return the name of what a factory calls."""
    return getattr(made_by(factory), "__name__", type(factory).__name__)


def is_installed(factory: Any) -> bool:
    """Return whether a class or function is from an installed package other than this one."""
    factory = getattr(factory, "func", factory)
    module = sys.modules.get(getattr(factory, "__module__", None) or "")
    file = Path(getattr(module, "__file__", None) or "")
    folders = {Path(sysconfig.get_path(name)) for name in ("purelib", "platlib")}
    return bool(folders & set(file.parents)) and getattr(factory, "__module__", "").split(".")[0] != "optimizers"
