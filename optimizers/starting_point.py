"""A copy of the parameters that a search moves, as they were when it began."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from optimizers.anchored_decay import apply_decay
from optimizers.table_rows import of_rows


class StartingPoint:
    """Copies of some parameters, or of the rows of tables that a search moves, from which every move starts.

    Args:
        params: The parameters.
        rows: The indices of the rows of each that move; None for all of it.

    Attributes:
        copies: One tensor per parameter, of the rows that move.
    """

    def __init__(self, params: list[Tensor], rows: Sequence[Tensor | None]) -> None:
        self.params, self.rows = params, rows
        moving = list(map(of_rows, params, rows))
        self.copies = list(map(torch.empty_like, moving))
        torch._foreach_copy_(self.copies, moving)

    def places(self) -> list[Tensor]:
        """Return tensors like the copies: the parameters themselves where all of them moves."""
        given = zip(self.params, self.rows, self.copies, strict=True)
        return [param if rows is None else torch.empty_like(copy) for param, rows, copy in given]

    def put(self, values: list[Tensor]) -> None:
        """Give the parameters these values where they move."""
        whole = [i for i, rows in enumerate(self.rows) if rows is None and values[i] is not self.params[i]]
        if whole:
            torch._foreach_copy_([self.params[i] for i in whole], [values[i] for i in whole])
        for param, rows, value in zip(self.params, self.rows, values, strict=True):
            if rows is not None:
                param.index_copy_(0, rows, value)

    def decay(self, states: list[Any], group: dict[str, Any], step_size: float) -> None:
        """Add the decay of a step from here to parameters that have moved; the arguments are those of `apply_decay`."""
        whole = [i for i, rows in enumerate(self.rows) if rows is None]
        params, start = ([tensors[i] for i in whole] for tensors in (self.params, self.copies))
        apply_decay(params, [states[i] for i in whole], group, step_size, start)
        for param, state, rows, copy in zip(self.params, states, self.rows, self.copies, strict=True):
            if rows is not None:
                moved = of_rows(param, rows)
                apply_decay([moved], [state], group, step_size, [copy])
                apply_decay([param], [state], group, step_size, [param])  # right for the rows that have not moved
                param.index_copy_(0, rows, moved)
