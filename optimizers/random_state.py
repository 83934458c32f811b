"""Saving and restoring random number generators, so that a loss can be computed again with the same draws."""

from __future__ import annotations

import importlib
import pickle
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from optimizers.other_generators import GeneratorAccess, global_generators

GeneratorStates = dict[torch.device, Tensor]


def generator_states(devices: Iterable[torch.device] = ()) -> GeneratorStates:
    """Return the state of the CPU's global generator and of those of other devices.

    Args:
        devices: Devices that draw random numbers (CUDA, XPU, MPS, XLA); others, and the CPU itself, add nothing.

    Example:
        >>> before = generator_states()
        >>> first = torch.rand(2)
        >>> set_generator_states(before)
        >>> torch.equal(torch.rand(2), first)
        True
    """
    states = {torch.device("cpu"): torch.get_rng_state()}
    for device in devices:
        module = _generator_module(device)
        if module is not None:
            states[device] = module.get_rng_state(*_argument(device))
    return states


def set_generator_states(states: GeneratorStates) -> None:
    """Put back what `generator_states` returned.

    Args:
        states: States by device.
    """
    for device, state in states.items():
        if device.type == "cpu":
            torch.set_rng_state(state)
        else:
            _generator_module(device).set_rng_state(state, *_argument(device))


class ReplayedDraws:
    """The random draws of a computation, the same each time it runs: from torch, Python's `random` and `numpy.random`.

    The generators' states in front of the first run are put back before every later one, and a later run leaves the
    generators where it found them, so that the stream of random numbers is drawn from once, and what is drawn between
    two runs is not drawn again after them.

    Args:
        devices: Devices whose generators are replayed, beside the CPU's.
        generators: Further generators, such as those of `generators_within`.

    Example:
        >>> draws = ReplayedDraws()
        >>> with draws.replayed():
        ...     first = torch.rand(2)
        >>> with draws.replayed():
        ...     print(torch.equal(torch.rand(2), first))
        True
    """

    def __init__(self, devices: Iterable[torch.device] = (), generators: Sequence[GeneratorAccess] = ()) -> None:
        self._devices = list(dict.fromkeys(devices))
        self._generators = generators
        self._before: GeneratorStates | None = None
        self._others: list[_OtherDraws] = []

    @contextmanager
    def replayed(self) -> Iterator[None]:
        """Context of one run."""
        if self._before is None:
            self._before = generator_states(self._devices)
            self._others = [_OtherDraws(each) for each in (*global_generators(), *self._generators)]
            yield
            return
        present = generator_states(self._devices)
        set_generator_states(self._before)
        try:
            with ExitStack() as stack:
                for draws in self._others:
                    stack.enter_context(draws.replayed())
                yield
        finally:
            set_generator_states(present)


class _OtherDraws:
    """The draws of a computation from a generator that is not a global one of torch, from the moment this is made.

    Reading the state of numpy's takes as long as a small layer: a generator that the first run has not drawn from is
    left alone from then on.

    Args:
        generator: The generator.
    """

    def __init__(self, generator: GeneratorAccess) -> None:
        self._generator = generator
        self._before = generator.read()
        self._is_drawn_from: bool | None = None

    @contextmanager
    def replayed(self) -> Iterator[None]:
        """Context of a later run."""
        if self._is_drawn_from is False:
            yield
            return
        present = self._generator.read()
        if self._is_drawn_from is None:
            self._is_drawn_from = pickle.dumps(present) != pickle.dumps(self._before)
        self._generator.write(self._before)
        try:
            yield
        finally:
            self._generator.write(present)


def _generator_module(device: torch.device) -> Any:
    """The module with `get_rng_state` for a device; None where the device has no generator of its own."""
    if device.type == "cpu":
        return None
    if device.type == "xla":
        return importlib.import_module("torch_xla.core.xla_model")
    module = getattr(torch, device.type, None)
    return module if hasattr(module, "get_rng_state") else None


def _argument(device: torch.device) -> tuple[Any, ...]:
    # MPS has one device and takes no argument for it; XLA wants its device as text.
    return () if device.type == "mps" else (str(device),) if device.type == "xla" else (device,)
