"""The steps of an optimizer during a fit, each of which is measured right before it is made."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from callbacks.schedules.measurable_fit import refusal
from callbacks.trainer.replayed_batches import ReplayedBatches
from optimizers import RateMeasurement
from optimizers.replaced_attribute import replaced_attribute
from optimizers.step_direction import NotMeasurableError, parameters_of, set_value


class MeasuredSteps:
    """An optimizer whose ``step`` measures first, as long as it is replaced.

    Args:
        measurement: The measurement of the learning rate, for as many groups as the optimizer has.
        optimizer: The optimizer.
        batches: The batches of a step under automatic optimization. None where the module hands ``evaluate`` and
            ``loss`` to the step, as a ClosureModule does.
        has_rate: Whether a rate was measured before; until one is, steps are made at a rate of 0.
        set_peak: Called with each new measured rate, before the step is made; sets the optimizer's rates by it.
    """

    def __init__(
        self,
        measurement: RateMeasurement,
        optimizer: Optimizer,
        batches: ReplayedBatches | None,
        has_rate: bool,
        set_peak: Callable[[float], None],
    ) -> None:
        self.measurement = measurement
        self._optimizer = optimizer
        self._num_groups = len(optimizer.param_groups)
        self._batches = batches
        self._has_rate = has_rate
        self._set_peak = set_peak
        self._gradients: list[Tensor | None] | None = None

    def begin_batch(self, batch: Any, batch_idx: int) -> None:
        """Take in a batch, right before the training step with it."""
        if self._batches is not None:
            self._batches.begin(batch, batch_idx)

    def add_loss(self, loss: Tensor) -> None:
        """Take in the loss of a batch, as its backward pass gets it."""
        if self._batches is not None:
            self._batches.add_loss(loss)

    def keep_gradients(self) -> None:
        """Keep the gradients as they are before clipping, where the measurement needs them."""
        if self.measurement.is_due:
            self._gradients = [None if p.grad is None else p.grad.clone() for p in parameters_of(self._optimizer)]

    def replace_step(self) -> Callable[[], None]:
        """Put a function that measures first in the place of the optimizer's ``step``, as torch's schedules do.

        Returns:
            A function that puts back what was there.
        """
        own = self._optimizer.step

        # A ClosureModule hands out `evaluate` and `loss` where a step has arguments of these names.
        def step(
            closure: Callable[[], Any] | None = None,
            *,
            evaluate: Callable[[], Any] | None = None,
            loss: Any = None,
            **others: Any,
        ) -> Any:
            if closure is None:
                self._measure(evaluate, loss)
                return self._at_rate(lambda: own(**others))
            with torch.enable_grad():
                known = [closure()]
            self._measure(evaluate, known[0])
            return self._at_rate(lambda: own(closure=lambda: known.pop() if known else closure(), **others))

        vars(step).update({name: value for name, value in vars(own).items() if name != "__wrapped__"})
        replaced = ExitStack()
        replaced.enter_context(replaced_attribute(self._optimizer, "step", step))
        return replaced.close

    def _measure(self, evaluate: Callable[[], Any] | None, loss: Any) -> None:
        if len(self._optimizer.param_groups) != self._num_groups:
            raise refusal(
                "the optimizer got a parameter group during a step; add it between steps, as in on_train_epoch_start"
            )
        gradients, self._gradients = self._gradients, None
        if self._batches is not None:
            if not self._batches.has_losses:
                self._batches.clear()
                return
            evaluate, loss = self._batches.evaluate, self._batches.loss()
        assert evaluate is not None
        searches = self.measurement.searches
        try:
            self.measurement.measure(loss, evaluate, gradients)
        except NotMeasurableError as error:
            raise refusal(str(error)) from error
        if self._batches is not None:
            self._batches.clear()
        if self.measurement.searches > searches:
            self._has_rate = True
            self._set_peak(self.measurement.peak)

    def _at_rate(self, step: Callable[[], Any]) -> Any:
        """Make a step at the rate measured; at 0 as long as there is none."""
        if self._has_rate:
            returned = step()
            self.measurement.finish_step()
            return returned
        groups = self._optimizer.param_groups
        rates = [float(group["lr"]) for group in groups]
        for group in groups:
            set_value(group, "lr", 0.0)
        try:
            return step()
        finally:
            for group, rate in zip(groups, rates, strict=True):
                set_value(group, "lr", rate)
