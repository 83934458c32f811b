"""In-place arithmetic on one param group: moving its tensors along a direction, and back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from optimizers.anchored_decay import apply_decay
from optimizers.direction_pieces import Piece, denominators_of, pieces_on_cpu, whole_tensors
from optimizers.directions import STEPS, Direction, DirectionFunction
from optimizers.shards import is_sharded, local_part, share_of, states_of, sum_over_ranks
from optimizers.starting_point import StartingPoint
from optimizers.table_rows import rows_in_use


class GroupUpdate:
    """The tensors of a param group that have a gradient (and entries), their direction, and where they started.

    A step with a search: `compute_direction`, `save`, `move_to` for each trial and for the step itself, and `commit`.
    A step without: `step_without_search`. The group's `lr_factor` scales the direction: parts of a unit may move at
    different rates along one line.

    Of sharded parameters the tensors are the rank's own parts, sums over which `over_ranks` adds up.

    Args:
        group: A param group of an optimizer.
        state: The optimizer's state.
        direction: The function that computes the direction; `compute_direction` calls it, once.

    Attributes:
        shares: Of each tensor, what the rank's part counts in a sum over ranks; None where nothing is sharded.
    """

    def __init__(
        self, group: dict[str, Any], state: Mapping[Tensor, dict[str, Any]], direction: DirectionFunction
    ) -> None:
        self.group = group
        self._direction_function = direction
        owners: list[Tensor] = []
        for param in dict.fromkeys(group["params"]):
            if param.grad is None or not param.numel():
                continue
            if param.grad.is_sparse or param.is_complex():
                kind = "sparse gradients (nn.Embedding, sparse=False)" if param.grad.is_sparse else "complex parameters"
                raise ValueError(f"line search optimizers do not take {kind}: {tuple(param.shape)} in a group")
            owners.append(param)
        self.owners = owners
        self.params, self.grads = owners, [param.grad for param in owners if param.grad is not None]
        self.states: list[Any] = [state[param] for param in owners]
        if any(map(is_sharded, owners)):
            self.params, self.grads = list(map(local_part, owners)), list(map(local_part, self.grads))
            self.states = states_of(owners, state)
        self.shares: list[float] | None = None
        self.factor: float = group["lr_factor"]
        self.start: StartingPoint | None = None
        self._direction: Direction | None = None
        self._denominators: list[Tensor] | None = None
        self._on_cpu = all(p.device.type == "cpu" for p in self.params)

    def compute_direction(self) -> None:
        """Compute the direction of this step, which brings the averages that it is made of up to date; once."""
        if self._direction is None:
            self._direction = self._direction_function(self.params, self.grads, self.states, self.group)

    def free_gradients(self) -> None:
        """Free the gradients, of which a direction with momentum needs no more than the averages that it is made of."""
        self._direction = self.direction._replace(without_momentum=None)
        self.grads.clear()
        for owner in self.owners:
            owner.grad = None

    @property
    def direction(self) -> Direction:
        """The direction of this step; `compute_direction` or `step_without_search` has to come first."""
        assert self._direction is not None, "the direction has not been computed"
        return self._direction

    def save(self) -> None:
        """Copy what a search may move, so that every move starts from the same bits."""
        moved_by = [self.direction, self.direction.without_momentum or self.direction]
        numerators = zip(*(direction.numerators for direction in moved_by), strict=True)
        # Momentum and anchors move rows without a direction, too.
        keeps_all = [self.group["heavy_ball"] > 0 or "anchor" in state for state in self.states]
        rows = [None if whole else rows_in_use(*some) for whole, some in zip(keeps_all, numerators, strict=True)]
        self.start = StartingPoint(self.params, rows)

    def move_to(self, step_size: float, without_momentum: bool = False) -> None:
        """Put the parameters at the start minus `step_size` times the direction; at 0, where they were to the bit."""
        assert self.start is not None, "the start has not been saved"
        factor = -step_size * self.factor
        if step_size and self._on_cpu:
            self.start.put(self._moved(self.start, factor, without_momentum))
            return
        self.start.put(self.start.copies)
        if step_size:
            self._add(self.params, factor, without_momentum)

    def commit(self, step_size: float) -> None:
        """Complete a searched step: weight decay and momentum buffer, both from where the parameters started."""
        assert self.start is not None, "the start has not been saved"
        group = self.group
        if group["heavy_ball"] > 0:
            buffers = _momentum_buffers(self.params, self.states)
            torch._foreach_mul_(buffers, group["heavy_ball"])
            torch._foreach_add_(self.params, buffers)
            torch._foreach_copy_(buffers, self.params)
            torch._foreach_sub_(buffers, self.start.copies)
        self.start.decay(self.states, group, step_size * self.factor)

    def step_without_search(self, step_size: float) -> None:
        """Make a whole step without a search; costs what a step of AdamW costs, in time and memory."""
        group = self.group
        if self._stepped_in_one_pass(step_size):
            return
        self.compute_direction()
        apply_decay(self.params, self.states, group, step_size * self.factor)
        if group["heavy_ball"] > 0:
            buffers = _momentum_buffers(self.params, self.states)
            torch._foreach_mul_(buffers, group["heavy_ball"])
            self._add(buffers, -step_size * self.factor)
            torch._foreach_add_(self.params, buffers)
        else:
            self._add(self.params, -step_size * self.factor)

    def reset_momentum(self) -> None:
        """Set the heavy ball's momentum buffer to zero, after a step that moves nothing."""
        if self.group["heavy_ball"] > 0:
            torch._foreach_zero_(_momentum_buffers(self.params, self.states))

    def _stepped_in_one_pass(self, step_size: float) -> bool:
        make_step = STEPS.get(self._direction_function)
        if make_step is None or self.group["heavy_ball"] > 0 or self._direction is not None:
            return False
        direction = make_step(self.params, self.grads, self.states, self.group, step_size * self.factor)
        if direction is not None:
            self._direction = direction
        return direction is not None

    def along(self, without_momentum: bool) -> Direction:
        """Return the direction of this step, or what it is without its momentum, where that is another.

        A heavy ball takes the place of the direction's own momentum.
        """
        leaves_out = without_momentum or self.group["heavy_ball"] > 0
        return (self.direction.without_momentum if leaves_out else None) or self.direction

    def _moved(self, start: StartingPoint, factor: float, without_momentum: bool) -> list[Tensor]:
        """The start plus a factor times the direction, in one pass, and in the parameters' own memory where it fits."""
        direction = self.along(without_momentum)
        factors = [factor * scale for scale in direction.scales or [1.0] * len(self.params)]
        moved = start.places()
        for piece in self.pieces(direction, start.rows, start.copies, moved):
            (origin, place), factor = piece.beside, factors[piece.index]
            if piece.denominator is None:
                torch.add(origin, piece.numerator, alpha=factor, out=place)
            else:
                torch.addcdiv(origin, piece.numerator, piece.denominator, value=factor, out=place)
        return moved

    def _add(self, targets: list[Tensor], factor: float, without_momentum: bool = False) -> None:
        """Add the direction times a factor to some tensors."""
        direction = self.along(without_momentum)
        factors = [factor * scale for scale in direction.scales or [1.0] * len(targets)]
        if direction.squares is None and direction.scales is None:
            torch._foreach_add_(targets, direction.numerators, alpha=factor)
        elif not self._on_cpu and (denominators := self._denominators_of(direction)) is not None:
            torch._foreach_addcdiv_(targets, direction.numerators, denominators, factors)
        else:
            for piece in self.pieces(direction, [None] * len(targets), targets):
                (target,), factor = piece.beside, factors[piece.index]
                if piece.denominator is None:
                    target.add_(piece.numerator, alpha=factor)
                else:
                    target.addcdiv_(piece.numerator, piece.denominator, value=factor)

    def pieces(self, direction: Direction, rows: Sequence[Tensor | None], *beside: Sequence[Tensor]) -> Iterator[Piece]:
        """Yield a direction of this step in pieces, each for use before the next one.

        Args:
            direction: The direction, with or without momentum.
            rows: Which rows of each of its tensors are wanted; None for all, as always on a device.
            beside: Lists of tensors in parallel with the direction's, which hold no other rows.
        """
        if self._on_cpu:
            return pieces_on_cpu(direction, rows, *beside)
        return whole_tensors(direction, self._denominators_of(direction), *beside)

    def _denominators_of(self, direction: Direction) -> list[Tensor] | None:
        """All denominators, for a device; computed once per step, since both directions of a step share them."""
        if self._denominators is None:
            self._denominators = denominators_of(direction)
        return self._denominators


def group_updates(
    groups: Iterable[dict[str, Any]], state: Mapping[Tensor, dict[str, Any]], direction: DirectionFunction
) -> list[GroupUpdate]:
    """Return the updates of those of an optimizer's groups that have something to move."""
    updates = [update for update in (GroupUpdate(group, state, direction) for group in groups) if update.params]
    if any(is_sharded(owner) for update in updates for owner in update.owners):
        for update in updates:
            update.shares = [share_of(owner) for owner in update.owners]
    return updates


def make_state(updates: Iterable[GroupUpdate]) -> None:
    """Create the state tensors that a checkpoint is about to fill (see `shards.asks_for_state`); move nothing."""
    for update in updates:
        update.compute_direction()
        update.reset_momentum()


def over_ranks(values: Tensor, updates: Sequence[GroupUpdate]) -> Tensor:
    """Return sums over the tensors of some updates, summed over all ranks as well where the tensors are sharded."""
    return values if updates[0].shares is None else sum_over_ranks(values)


def _momentum_buffers(params: list[Tensor], states: list[dict[str, Any]]) -> list[Tensor]:
    """The heavy ball's momentum buffer of each parameter: what the last step added to it, but for its decay."""
    for param, state in zip(params, states, strict=True):
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(param, memory_format=torch.preserve_format)
    return [state["momentum_buffer"] for state in states]
