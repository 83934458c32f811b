"""The loss of a step, computed again with the same dropout masks and the same running statistics."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import nn

from optimizers.other_generators import generators_within
from optimizers.random_state import ReplayedDraws
from optimizers.step_contract import Closure, Evaluate

# Entries of a buffer of whole numbers. Counts are smaller; masks, which some language models keep, are larger.
_LARGEST_COUNTS = 2**16


class BufferPlace(NamedTuple):
    """Where a buffer is: a forward pass may change its values, or put another tensor there.

    Args:
        owner: The module that has it.
        name: The attribute.
    """

    owner: nn.Module
    name: str


class BufferValues:
    """What buffers hold at a moment, to be put back later.

    Args:
        places: The buffers.
    """

    def __init__(self, places: Iterable[BufferPlace]) -> None:
        self._held = [(place, getattr(*place)) for place in places]
        self._buffers = [buffer for _, buffer in self._held if buffer is not None]
        self._values = [buffer.clone() for buffer in self._buffers]

    @torch.no_grad()
    def put_back(self) -> None:
        """Put the same tensors, with the same values, where they were."""
        for (owner, name), buffer in self._held:
            if getattr(owner, name) is not buffer:
                setattr(owner, name, buffer)
        if self._buffers:
            torch._foreach_copy_(self._buffers, self._values)


class ReplayedBuffers:
    """Buffers that every run of a computation finds and leaves as its first run did.

    A forward pass in training mode moves the running statistics of batch normalisation. With the buffers replayed, a
    step moves them once, however many trials it makes.

    Args:
        places: The buffers; with none, nothing is done.
    """

    def __init__(self, places: Iterable[BufferPlace]) -> None:
        self._places = list(places)
        self._before: BufferValues | None = None
        self._after: BufferValues | None = None

    @contextmanager
    def replayed(self) -> Iterator[None]:
        """Context of one run."""
        if not self._places:
            yield
        elif self._before is None:
            self._before = BufferValues(self._places)
            yield
            self._after = BufferValues(self._places)
        else:
            self._before.put_back()
            try:
                yield
            finally:
                if self._after is not None:
                    self._after.put_back()


def moving_buffers(module: nn.Module) -> list[BufferPlace]:
    """Return the buffers of a module that a forward pass may change: all but large ones of whole numbers or bools.

    Those are masks and positions, which some language models keep by the megabyte.

    Args:
        module: Any module.
    """
    return [
        BufferPlace(owner, name)
        for owner in module.modules()
        for name, buffer in owner.named_buffers(recurse=False)
        if buffer.is_floating_point() or buffer.is_complex() or buffer.numel() <= _LARGEST_COUNTS
    ]


def replayed(closure: Closure, evaluate: Evaluate, module: nn.Module) -> tuple[Closure, Evaluate]:
    """Return a closure and an `evaluate` of one step that see the same dropout masks, each time they are called.

    Without this, a search compares losses under different masks, and finds step sizes of nearly 0. Buffers such as the
    running statistics of batch normalisation are moved once, whatever the number of trials. The random numbers of the
    step are drawn from the stream once: the next step has other masks. Replayed are the global generators of torch,
    Python and numpy, and those that the module and its parts have as attributes.

    Args:
        closure: Clears the gradients, computes the loss, runs backward and returns the loss.
        evaluate: Computes the loss of the same batch alone.
        module: The module that both use, in training mode.

    Example::

        for inputs, targets in loader:
            evaluate = lambda: loss_function(model(inputs), targets)

            def closure():
                optimizer.zero_grad()
                loss = evaluate()
                loss.backward()
                return loss

            closure, evaluate = replayed(closure, evaluate, model)
            optimizer.step(closure, evaluate=evaluate)
    """
    devices, generators = (parameter.device for parameter in module.parameters()), generators_within(module.modules())
    draws = ReplayedDraws(devices, generators)
    buffers = ReplayedBuffers(moving_buffers(module))

    def again(function: Callable[[], Any]) -> Callable[[], Any]:
        def call() -> Any:
            with draws.replayed(), buffers.replayed():
                return function()

        return call

    return again(closure), again(evaluate)
