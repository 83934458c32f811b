"""Leaving out steps whose loss or gradients are not finite, before any optimizer is called, and counting them.

`optimizers/finite_steps.py` holds the check itself, and what our optimizers do in any other training loop.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor
from torch.optim import Optimizer

from lightning_modules.batches.batch_rows import rows_of
from lightning_modules.closures import StepClosures
from lightning_modules.errors import ModelError
from lightning_modules.steps.optimizer_calls import step_keywords
from optimizers import traits
from optimizers.replaced_attribute import replaced_attribute
from optimizers.scalars import read_together


class SkippedSteps:
    """Steps of any optimizer, left out where the loss or a gradient is not finite.

    Such a step leaves parameters and optimizer state to the bit as they were: its gradients are computed before the
    optimizer is called, which then is not. Loss and gradients of all ranks are asked in one number, which is read
    together with the loss: one synchronisation with a device per step. Steps that a gradient scaler or the optimizer
    itself leaves out (its groups' ``skipped`` rises) count alike.

    Args:
        max_in_a_row: How many steps in a row may be left out, 1 or more; ``math.inf`` for any number.

    Attributes:
        skipped: Steps left out since the start of the run.
        in_a_row: Steps left out since the last one that was made.
        made: Whether any step was made.

    Raises:
        ModelError: from :meth:`step`, after that many; from :meth:`finish`, if no step of the run was
            made.
    """

    def __init__(self, max_in_a_row: float) -> None:
        self.max_in_a_row = max_in_a_row
        self.skipped = 0
        self.in_a_row = 0
        self.made = False

    def step(self, optimizer: LightningOptimizer, step: StepClosures, has_scaler: bool) -> Tensor:
        """Make a step, or leave it out; return its loss, on the CPU wherever it has been read.

        Args:
            optimizer: The optimizer, as Lightning wraps it.
            step: The closures of the step.
            has_scaler: Whether a gradient scaler runs the step.
        """
        inner = optimizer.optimizer
        offered = step_keywords(inner, step, has_scaler)
        counted = _skipped_by(inner)
        if not traits(inner).needs_gradient:
            loss = torch.as_tensor(optimizer.step(closure=step.closure, **offered))
            step.loss.copy_(loss)  # the closure, which fills it in, has not run
            self._count(_left_out_itself(inner, counted), float(loss), step, has_scaler)
            return step.loss
        if traits(inner).checks_finite:
            inner.checks_finite = False  # type: ignore[attr-defined]
        checked = _CheckedStep(inner, step)
        # The optimizer's class stays as it is: torch's schedules put a wrapper of `step` into the instance as well.
        with replaced_attribute(inner, "step", checked.step):
            optimizer.step(closure=step.closure, **offered)
        left_out = checked.left_out if checked.was_called else has_scaler
        loss = step.loss if checked.loss is None else torch.tensor(checked.loss, dtype=torch.float32)
        self._count(left_out or _left_out_itself(inner, counted), loss, step, has_scaler and left_out)
        return loss

    def finish(self) -> None:
        """Refuse to call a run finished that left out every step."""
        if self.skipped and not self.made:
            raise ModelError(
                f"train/skipped_steps: the loss or its gradients were not finite in any of the run's {self.skipped} "
                "steps, so nothing was trained"
            )

    def state(self) -> list[int]:
        """Return what a checkpoint keeps."""
        return [self.skipped, self.in_a_row, int(self.made)]

    def load(self, state: Sequence[int]) -> None:
        """Go on from what :meth:`state` returned."""
        self.skipped, self.in_a_row, self.made = state[0], state[1], bool(state[2])

    def _count(self, left_out: bool, loss: Tensor | float, step: StepClosures, by_scaler: bool) -> None:
        if not left_out:
            self.in_a_row, self.made = 0, True
            return
        self.skipped += 1
        self.in_a_row += 1
        found = f"loss {float(loss):g}, batch {rows_of(step.batches)}"
        if self.in_a_row >= self.max_in_a_row:
            raise ModelError(
                f"max_skipped_steps: the loss, its gradients or all trials were not finite in {self.in_a_row} steps in "
                f"a row; the last: {found}"
            )
        if self.skipped == 1 and by_scaler and math.isfinite(loss):
            rank_zero_warn(
                "train/skipped_steps: the gradient scaler left out a step to halve its scale, as is usual at the start "
                "of 16-mixed; it is counted there, as any further one"
            )
        elif self.skipped == 1:
            rank_zero_warn(
                f"train/skipped_steps: a step is left out, since its loss, a gradient or all trials are not finite "
                f"({found}); any further one is counted there"
            )


class _CheckedStep:
    """A step of an optimizer that asks whether loss and gradients are finite before it moves anything.

    Args:
        optimizer: The optimizer.
        step: The closures of the step.

    Attributes:
        was_called: Whether anything has called it; a gradient scaler may leave that out.
        left_out: Whether the optimizer's own step was not made.
        loss: The loss as it was read.
    """

    def __init__(self, optimizer: Optimizer, step: StepClosures) -> None:
        self._optimizer = optimizer
        self._step = step
        self._own: Callable[..., Any] = optimizer.step
        self.was_called = False
        self.left_out = False
        self.loss: float | None = None

    def step(self, closure: Callable[[], Any] | None = None, **offered: Any) -> Any:
        """Compute the loss, and make the optimizer's own step if all is finite."""
        # A gradient scaler has run the closure by now.
        loss = self._step.loss if closure is None else closure()
        # What a scaler has found, for kernels that skip the step by themselves.
        found_inf = getattr(self._optimizer, "found_inf", None)
        self.was_called = True
        finite, self.loss, *found = read_together(
            self._step.finite, self._step.loss, *([] if found_inf is None else [found_inf])
        )
        self.left_out = not finite or any(found)
        if not finite:
            return loss
        if closure is None:
            return self._own(**offered)
        parameters = [parameter for group in self._optimizer.param_groups for parameter in group["params"]]
        return self._own(closure=_known_at_first(closure, loss, parameters), **offered)


def _known_at_first(closure: Callable[[], Any], loss: Any, parameters: Sequence[Tensor]) -> Callable[[], Any]:
    """Return a closure that has been called once already: it runs again where anything has moved since, or later."""

    def versions() -> list[tuple[int, int | None]]:
        return [(p._version, None if p.grad is None else p.grad._version) for p in parameters]

    known, before = [loss], versions()

    def call() -> Any:
        return known.pop() if known and versions() == before else closure()

    return call


def _skipped_by(optimizer: Optimizer) -> list[int]:
    return [group.get("skipped", 0) for group in optimizer.param_groups]


def _left_out_itself(optimizer: Optimizer, before: Sequence[int]) -> bool:
    """Whether every group has counted a skipped step since."""
    return all(now > then for now, then in zip(_skipped_by(optimizer), before, strict=True))
