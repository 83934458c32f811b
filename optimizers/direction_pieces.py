"""A direction in pieces, so that a step needs neither a copy of it nor, on a CPU, fresh memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from optimizers.directions import Direction
from optimizers.table_rows import of_rows

_CPU_CHUNK = 1 << 18  # entries


@dataclass(slots=True)
class Piece:
    """A part of one tensor of a direction, and the same part of tensors beside it.

    Args:
        index: Which of the direction's tensors it is a part of.
        beside: The parts of the tensors beside it.
        numerator: The part of the direction's numerator.
        denominator: The part of its denominator; None where there is none.
        is_scratch: Whether the denominator is in a block of memory that the next piece overwrites.
    """

    index: int
    beside: tuple[Tensor, ...]
    numerator: Tensor
    denominator: Tensor | None
    is_scratch: bool = False

    def over_denominator(self, tensor: Tensor) -> Tensor:
        """Return a tensor over the denominator; it takes the denominator's place in a scratch block: call it once."""
        if self.denominator is None:
            return tensor
        if not self.is_scratch or tensor.dtype != self.denominator.dtype:
            return torch.div(tensor, self.denominator)
        quotient = torch.div(tensor, self.denominator, out=self.denominator)
        del self.denominator  # so that a second call is an error and not a wrong number
        return quotient


def whole_tensors(
    direction: Direction, denominators: Sequence[Tensor] | None, *beside: Sequence[Tensor]
) -> Iterator[Piece]:
    """Yield a direction in one piece per tensor, as a device is best given it.

    Args:
        direction: A direction.
        denominators: Its denominators (:func:`denominators_of`); None where it has none.
        beside: Lists of tensors in parallel with the direction's.
    """
    for i, (numerator, *others) in enumerate(zip(direction.numerators, *beside, strict=True)):
        yield Piece(i, tuple(others), numerator, None if denominators is None else denominators[i])


def pieces_on_cpu(direction: Direction, rows: Sequence[Tensor | None], *beside: Sequence[Tensor]) -> Iterator[Piece]:
    """Yield a direction in pieces that are small enough to stay in the cache of a CPU.

    A fresh block of memory costs several times the arithmetic on it. So the denominators, computed when they are
    needed, share one block: a piece is for use before the next one.

    Args:
        direction: A direction.
        rows: Which rows of each of its tensors are wanted; None for all.
        beside: Lists of tensors in parallel with the direction's, which hold no other rows.
    """
    squares = direction.squares
    scratch = torch.empty(0)
    for i, (numerator, *others) in enumerate(zip(direction.numerators, *beside, strict=True)):
        whole = [*others, of_rows(numerator, rows[i])]
        if squares is not None:
            whole.append(of_rows(squares[i], rows[i]))
        flat = all(t.is_contiguous() for t in whole)
        for parts in zip(*(t.view(-1).split(_CPU_CHUNK) for t in whole), strict=True) if flat else [whole]:
            beside_it = tuple(parts[: len(others)])
            if squares is None:
                yield Piece(i, beside_it, parts[-1], None)
                continue
            part, square = parts[-2:]
            if scratch.numel() < square.numel() or scratch.dtype != square.dtype:
                scratch = torch.empty(square.numel(), dtype=square.dtype)
            block = scratch[: square.numel()].view_as(square)
            # MKL takes far longer over the root of an exact zero than over any other, and the squares of an
            # embedding's rows are zeros until the rows are used.
            torch.clamp(square, min=torch.finfo(square.dtype).tiny, out=block)
            block.sqrt_().add_(direction.eps[i] if direction.eps else 0.0)
            yield Piece(i, beside_it, part, block, is_scratch=True)


def denominators_of(direction: Direction) -> list[Tensor] | None:
    """Return all denominators of a direction; None where it has none."""
    if direction.squares is None:
        return None
    denominators = list(torch._foreach_sqrt(direction.squares))
    if direction.eps:
        torch._foreach_add_(denominators, direction.eps)
    return denominators
