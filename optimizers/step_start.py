"""The start of a step along a direction: its gradients, its loss, and what it is to move."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch.optim import Optimizer

from optimizers.anchored_decay import require_kept_anchors
from optimizers.directions import DirectionFunction
from optimizers.finite_steps import finite_start
from optimizers.group_update import GroupUpdate, group_updates, make_state
from optimizers.shards import asks_for_state
from optimizers.step_contract import Closure, Evaluate, Loss, open_step


class StepStart(NamedTuple):
    """What a step begins with.

    Args:
        returned: What the step returns: the loss as the closure returned it.
        loss: The loss at the start.
        finite_loss: The same, NaN on a device where loss or gradients are not finite; None where the step is to be left
            out.
        evaluate: Computes the loss of the step at whatever the parameters are.
        updates: The groups that have something to move.
    """

    returned: Any
    loss: Loss
    finite_loss: Loss | None
    evaluate: Evaluate
    updates: list[GroupUpdate]


def start_step(
    optimizer: Optimizer, direction: DirectionFunction, closure: Closure | None, evaluate: Evaluate | None, loss: Any
) -> StepStart | None:
    """Compute the gradients and the loss of a step, and look whether they are finite.

    Args:
        optimizer: The optimizer, with the attribute `checks_finite`.
        direction: The function that computes its direction.
        closure: As `step_contract.open_step` takes it, like the other two arguments of a step.
        evaluate: Computes the loss alone.
        loss: The loss that the gradients belong to, where there is no closure.

    Returns:
        What the step begins with; None for a call that is only to create the optimizer's state
        (`shards.asks_for_state`), after that is done.

    Raises:
        ValueError: A group decays towards pretrained values that were not kept.
    """
    groups = optimizer.param_groups
    if asks_for_state(groups, closure, evaluate, loss):
        make_state(group_updates(groups, optimizer.state, direction))
        return None
    require_kept_anchors(optimizer)
    parameters = [p for group in groups for p in group["params"]]
    returned, start, evaluate = open_step(type(optimizer).__name__, closure, evaluate, loss, parameters)
    updates = group_updates(groups, optimizer.state, direction)
    finite = finite_start(start, updates) if optimizer.checks_finite else start  # type: ignore[attr-defined]
    return StepStart(returned, start, finite, evaluate, updates)
