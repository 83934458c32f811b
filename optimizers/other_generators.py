"""Random number generators other than torch's global ones: Python's, numpy's, and those that modules hold."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn


class GeneratorAccess(NamedTuple):
    """Where the state of a random number generator is read and written.

    Args:
        read: Returns a copy of the state.
        write: Puts a state back.
    """

    read: Callable[[], Any]
    write: Callable[[Any], Any]


def global_generators() -> list[GeneratorAccess]:
    """Return Python's global generator, and numpy's where numpy is in use."""
    python, numpy = GeneratorAccess(random.getstate, random.setstate), _numpy_random()
    if numpy is None:
        return [python]
    return [python, GeneratorAccess(partial(numpy.get_state, legacy=False), numpy.set_state)]


def generators_within(modules: Iterable[nn.Module]) -> list[GeneratorAccess]:
    """Return the generators that modules have as attributes: torch's, Python's `random.Random` and numpy's.

    Args:
        modules: The modules, such as `model.modules()`.

    Example:
        >>> model = torch.nn.Linear(2, 1)
        >>> model.noise = torch.Generator()
        >>> len(generators_within(model.modules()))
        1
    """
    found = {id(value): value for module in modules for value in vars(module).values()}
    return [access for value in found.values() if (access := _access(value)) is not None]


def _access(value: Any) -> GeneratorAccess | None:
    """Return the access to a generator; None for anything else."""
    if isinstance(value, torch.Generator):
        return GeneratorAccess(value.get_state, value.set_state)
    if isinstance(value, random.Random):
        return GeneratorAccess(value.getstate, value.setstate)
    numpy = _numpy_random()
    if numpy is not None and isinstance(value, numpy.RandomState):
        return GeneratorAccess(partial(value.get_state, legacy=False), value.set_state)
    if numpy is not None and isinstance(value, numpy.Generator):
        bits = value.bit_generator
        return GeneratorAccess(partial(getattr, bits, "state"), partial(setattr, bits, "state"))
    return None


def _numpy_random() -> Any:
    # torch imports numpy wherever it is installed; without it nothing draws from it.
    return getattr(sys.modules.get("numpy"), "random", None)
