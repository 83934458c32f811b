"""The loss of a step, computed again with the same dropout masks and the same running statistics."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from optimizers.random_state import ReplayedDraws
from optimizers.step_contract import Closure, Evaluate


class ReplayedBuffers:
    """Buffers that every run of a computation finds and leaves as its first run did.

    A forward pass in training mode moves the running statistics of batch normalisation. With the buffers replayed, a
    step moves them once, however many trials it makes.

    Args:
        buffers: The buffers; with none, nothing is done.
    """

    def __init__(self, buffers: Iterable[Tensor]) -> None:
        self._buffers = list(buffers)
        self._before: list[Tensor] | None = None
        self._after: list[Tensor] | None = None

    @contextmanager
    def replayed(self) -> Iterator[None]:
        """Context of one run."""
        if not self._buffers:
            yield
        elif self._before is None:
            self._before = [buffer.clone() for buffer in self._buffers]
            yield
            self._after = [buffer.clone() for buffer in self._buffers]
        else:
            self._put(self._before)
            try:
                yield
            finally:
                if self._after is not None:
                    self._put(self._after)

    @torch.no_grad()
    def _put(self, values: list[Tensor]) -> None:
        torch._foreach_copy_(self._buffers, values)


def moving_buffers(module: nn.Module) -> list[Tensor]:
    """Return the buffers of a module that a forward pass may change: numbers with a fraction, and single counts.

    Masks and positions, which some language models keep by the megabyte, are neither.

    Args:
        module: Any module.
    """
    return [buffer for buffer in module.buffers() if buffer.is_floating_point() or buffer.numel() == 1]


def replayed(closure: Closure, evaluate: Evaluate, module: nn.Module) -> tuple[Closure, Evaluate]:
    """Return a closure and an `evaluate` of one step that see the same dropout masks, each time they are called.

    Without this, a search compares losses under different masks, and finds step sizes of nearly 0. Buffers such as the
    running statistics of batch normalisation are moved once, whatever the number of trials. The random numbers of the
    step are drawn from the stream once: the next step has other masks.

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
    draws = ReplayedDraws(parameter.device for parameter in module.parameters())
    buffers = ReplayedBuffers(moving_buffers(module))

    def again(function: Callable[[], Any]) -> Callable[[], Any]:
        def call() -> Any:
            with draws.replayed(), buffers.replayed():
                return function()

        return call

    return again(closure), again(evaluate)
