"""The line along which a search moves parameters: to a step size times their directions, and back."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from optimizers.group_update import GroupUpdate, over_ranks
from optimizers.scalars import gather
from optimizers.searches import Past, Search, SearchResult
from optimizers.slopes import slope
from optimizers.step_contract import Evaluate, as_loss


class Line:
    """The line along which some param groups move: the step size, times a factor each, times their directions.

    Args:
        updates: The groups, and what the step size is multiplied by for each.
        without_momentum: Whether trials follow the directions without their momentum.
    """

    def __init__(self, updates: Sequence[tuple[GroupUpdate, float]], without_momentum: bool) -> None:
        self.updates = updates
        self.without_momentum = without_momentum
        self.position = 0.0
        for update, _ in updates:
            update.compute_direction()
            if update.start is None:
                update.save()

    def search(
        self, search: Search, evaluate: Evaluate, loss: Tensor | float, start: float, past: Past
    ) -> SearchResult:
        """Search along the line; leave the parameters at the last trial, or where they were if the search failed."""

        def loss_at(step_size: float) -> Tensor | float:
            self.move_to(step_size)
            return as_loss(evaluate())

        try:
            result = search(loss_at, loss, self.slopes(), start, past)
        except BaseException:
            self.move_to(0.0)
            raise
        if not result.accepted:
            self.move_to(0.0)
        return result

    def slopes(self) -> Tensor:
        """Return what each group contributes to the slope of the line, in one vector."""
        slopes = gather([slope(update, self.without_momentum) * factor for update, factor in self.updates])
        return over_ranks(slopes, [update for update, _ in self.updates])

    def move_to(self, step_size: float) -> None:
        """Put the parameters at this step size, always starting from the same bits."""
        self._move(step_size, self.without_momentum)

    def _move(self, step_size: float, without_momentum: bool) -> None:
        self.position = math.nan  # until all groups are where they belong
        for update, factor in self.updates:
            update.move_to(step_size * factor, without_momentum)
        self.position = step_size
        torch.clear_autocast_cache()  # it holds low-precision copies of weights that have just changed

    def take(self, step_size: float) -> None:
        """Make the step itself, which may have a momentum that the trials left out."""
        has_momentum = any(update.along(True) is not update.along(False) for update, _ in self.updates)
        if self.position != step_size or (self.without_momentum and has_momentum):
            self._move(step_size, without_momentum=False)
        for update, factor in self.updates:
            update.commit(step_size * factor)
