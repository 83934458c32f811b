"""The interface between an optimizer and the code that calls its step: arguments of a step, and what it reports.

    loss = optimizer.step(closure=None, *, evaluate=None, loss=None)

`closure` computes the loss with its gradient, once per step; `evaluate` computes the loss alone, once per trial. What
an optimizer can do is said by attributes, `Traits`; what a step did by a record, `StepRecord`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from optimizers.cleared_gradients import call_clearing
from optimizers.random_state import ReplayedDraws
from optimizers.scalars import require_single

Loss = Tensor | float
Closure = Callable[[], Any]
Evaluate = Callable[[], Any]


class Traits(NamedTuple):
    """The properties of an optimizer that its caller has to know.

    An optimizer declares them by attributes of these names; one without them counts as an ordinary torch optimizer.

    Args:
        needs_gradient: Whether its step reads gradients. False: steps are made of `evaluate()` calls alone.
        sets_step_size: Whether it finds its own step size and writes it to `lr`. A schedule would be overwritten.
        measures_slope: Whether it takes the slope of the loss from the gradients, which clipping would falsify.
        takes_progress: Whether a caller may set its attribute `progress` to the share of the run that is done.
        checks_finite: Whether its step checks that loss and gradients are finite; a caller that does may set it False.
    """

    needs_gradient: bool = True
    sets_step_size: bool = False
    measures_slope: bool = False
    takes_progress: bool = False
    checks_finite: bool = False


def traits(optimizer: Any) -> Traits:
    """Return what an optimizer, ours or anybody's, says about itself.

    Args:
        optimizer: An optimizer, or its class.

    Example:
        >>> traits(torch.optim.AdamW).needs_gradient
        True
    """
    return Traits(**{name: bool(getattr(optimizer, name, usual)) for name, usual in Traits._field_defaults.items()})


@dataclass(frozen=True)
class StepRecord:
    """What the last step of an optimizer did; `optimizer.last_step` holds it, callbacks log it.

    Args:
        loss_before: The loss at the start of the step.
        loss_after: The loss of the accepted trial; `loss_before` where no trial was; NaN where no loss was measured
            after the start, in a step between two searches or one that was left out.
        evaluations: How many times the loss was evaluated at a trial point.
        backtracks: How many of these trials were rejected.
        step_size: The step size in force after the step.
        slope: The inner product of gradient and direction, the rate at which the loss falls along the step; NaN where
            it was not computed.
        accepted: Whether the step was made as planned: the condition held, or there is no condition. False means
            a failed search or a skipped step.
        group: The name of the group or unit that searched; None where the whole model did, or none did.
    """

    loss_before: float
    loss_after: float
    evaluations: int
    backtracks: int
    step_size: float
    slope: float
    accepted: bool
    group: str | None = None


@dataclass(frozen=True)
class UnitReport:
    """The state of the search of one unit (a part of the model with a step size of its own), for monitors.

    An optimizer that searches returns them from a method `unit_reports()`, by the unit's name.

    Args:
        step_size: The step size in force.
        slope: The slope at the last search.
        smoothed_slope: Exponential average of the slope over searches.
        smoothed_decrease: Exponential average of the decrease of the loss over searches.
        searches: Searches that found a step size, since the start, as are the counts below.
        failures: Searches that found none.
        trials: Evaluations in all searches.
        backtracks: Rejected ones among them.
        skipped: Steps left out because the loss or a gradient was not finite.
        search_interval: How many steps may pass between two searches now; None where every step may search.
    """

    step_size: float
    slope: float
    smoothed_slope: float
    smoothed_decrease: float
    searches: int
    failures: int
    trials: int
    backtracks: int
    skipped: int
    search_interval: float | None = None


class OpenedStep(NamedTuple):
    """The losses of a step that has been opened by `open_step`.

    Args:
        returned: What the step returns: the loss as the closure returned it.
        start: The loss at the start: a number or a detached 0-dim tensor, float32 at least, the same on all ranks.
        evaluate: Computes the loss of the step at whatever the parameters are.
    """

    returned: Any
    start: Loss
    evaluate: Evaluate


def open_step(
    name: str, closure: Closure | None, evaluate: Evaluate | None, loss: Any, params: Sequence[Tensor]
) -> OpenedStep:
    """Compute the gradients and the loss of a step, from whichever of its arguments the caller gave.

    Args:
        name: The optimizer's name, for errors.
        closure: Clears the gradients, computes the loss, runs backward and returns the loss; called once. None where
            the gradients are in `.grad` already.
        evaluate: Computes the loss alone. None: `closure` stands in, with the random numbers of its first call.
        loss: The loss that the gradients belong to, where there is no closure. None: `evaluate` computes it.
        params: The parameters whose gradients the closure writes.

    Raises:
        ValueError: The step got neither closure nor evaluate, there is no loss, or a closure without `evaluate` adds to
            gradients that are there.
    """
    if evaluate is None:
        if closure is None:
            raise ValueError(
                f"{name}.step() needs a closure, or gradients together with `evaluate`: "
                "it has to compute the loss at trial points"
            )
        replayed = ReplayedClosure(closure, params)
        loss, evaluate = call_clearing(name, replayed.first, params), replayed
        start = replayed.start()
    else:
        if closure is not None:
            with torch.enable_grad():
                result = closure()
            loss = loss if result is None else result
        elif loss is None:
            loss = evaluate()
        start = loss
    if loss is None:
        raise ValueError(f"the closure given to {name}.step() returned no loss")
    return OpenedStep(loss, as_loss(start), evaluate)


def as_loss(value: Any) -> Loss:
    """Return a loss as a number or as a detached 0-dim tensor of at least float32.

    Raises:
        ValueError: It is no single number.
    """
    require_single(value)
    if not isinstance(value, Tensor):
        return float(value)
    value = value.detach().reshape(())
    return value if value.dtype == torch.float64 else value.float()


class ReplayedClosure:
    """A closure (clear gradients, loss, backward) as a function that computes the same loss elsewhere.

    Dropout and every other draw from torch's generators repeat those of the first call, on the CPU and on the devices
    that hold the parameters. Afterwards the generators stand where the first call left them, and `.grad` holds the
    gradients of the first call. Under `torch.distributed` the loss is averaged over the ranks, so that all of them take
    the same decisions.

    Args:
        closure: Clears the gradients, computes the loss, runs backward and returns the loss.
        params: The parameters whose gradients the closure writes.
    """

    def __init__(self, closure: Closure, params: Sequence[Tensor]) -> None:
        self.closure = closure
        self.params = list(dict.fromkeys(params))
        self.draws = ReplayedDraws(p.device for p in self.params)

    def first(self) -> Any:
        """Call the closure as any optimizer does, and remember its random draws."""
        with self.draws.replayed(), torch.enable_grad():
            self.loss = self.closure()
        return self.loss

    def start(self) -> Any:
        """Return the loss of the first call, averaged over the ranks."""
        return self._mean_over_ranks(self.loss)

    def __call__(self) -> Any:
        """Return the loss at what the parameters are now."""
        grads = [p.grad for p in self.params]
        # Views, as of DDP's buckets (`gradient_as_bucket_view`), may be of memory that fresh ones are written into too.
        views = [(grad, grad.clone()) for grad in grads if grad is not None and grad._is_view()]
        for p in self.params:
            p.grad = None  # the closure gets fresh ones: the first gradients are still in use
        try:
            with self.draws.replayed(), torch.enable_grad():
                return self._mean_over_ranks(self.closure())
        finally:
            for p, grad in zip(self.params, grads, strict=True):
                p.grad = grad
            for grad, values in views:
                grad.copy_(values)

    def _mean_over_ranks(self, loss: Any) -> Any:
        if loss is None or not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
            return loss
        value = loss.detach() if isinstance(loss, Tensor) else torch.tensor(float(loss), dtype=torch.float64)
        # NCCL takes no tensor of the CPU, which a number would be.
        mean = value.to(self.params[0].device, torch.promote_types(value.dtype, torch.float32), copy=True)
        dist.all_reduce(mean)
        return mean / dist.get_world_size()
