"""The size of a step relative to the matrices that it changes."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from optimizers.group_update import GroupUpdate, over_ranks
from optimizers.scalars import gather

# The least ratio of mean entry to root mean square of a direction that moves entries alike: 1 for signs, 0.8 for
# normally distributed entries.
_EVEN = 0.95
# The least peak learning rate, as a share of the rate at which a step changes a matrix by as much as its own size.
# Sharp directions that a pretrained model starts with keep the measured rate small, and only steps of some size leave
# them.
LEAST_CHANGE = 0.01


def rate_of_whole_change(updates: Sequence[GroupUpdate]) -> float:
    r"""Return the learning rate at which a step of Adam may change the typical matrix by as much as its own size.

    Sizes are spectral norms. A step of Adam moves each entry by about the learning rate :math:`\eta`: an
    :math:`m \times n` matrix by :math:`\eta \sqrt{m n}` at most, where signs are those of a matrix of rank one, as they
    nearly are for a batch (arXiv 2310.17813). The matrix itself is about :math:`\rho (\sqrt m + \sqrt n)` large, as one
    of independent entries with the root mean square :math:`\rho`. So the rate is the median over matrices of

    .. math:: \rho \left( \frac{1}{\sqrt m} + \frac{1}{\sqrt n} \right) .

    Tensors of more dimensions count as matrices with as many rows as the first dimension has; vectors and matrices of
    zeros do not count.

    Args:
        updates: What moves; of sharded tensors all ranks have to call.

    Returns:
        The rate; 0 where there is no matrix.
    """
    sums, shapes = [], []
    for update in updates:
        shares = update.shares or [1.0] * len(update.params)
        for owner, param, share in zip(update.owners, update.params, shares, strict=True):
            if owner.dim() > 1:
                sums.append(_sum_of_squares(param) * share)
                shapes.append(_rows_and_columns(owner))
    if not sums:
        return 0.0
    squares = over_ranks(gather(sums), updates).tolist()
    return _typical_rate(
        (square, rows * columns, rows, columns) for square, (rows, columns) in zip(squares, shapes, strict=True)
    )


def rate_of_even_change(
    params: Sequence[Tensor], direction: Sequence[Tensor], weights: Sequence[float] | None = None
) -> float:
    r"""Return the rate of `rate_of_whole_change` for the step of any optimizer that moves entries alike.

    The first step of Adam does, as those of sign methods do; with a direction :math:`d` for a learning rate of 1 the
    rate is the median of :math:`\rho (\sqrt m + \sqrt n) / \lVert d \rVert`. A gradient, whose entries differ by orders
    of magnitude, is no such direction: its length says little about how far it may be followed.

    Where learning rates differ, it is their mean over the matrices that has this value. By the median alone a model
    whose lower layers learn a thousand times as slowly would get a rate a thousand times as high.

    Args:
        params: Parameters.
        direction: A tensor for each of them.
        weights: The learning rate of each of them as a share of the highest one, which the direction has as a factor.
            None: all are 1.

    Returns:
        The rate, of parameters with weight 1; 0 where the direction moves the entries of no matrix alike.
    """
    weights = [1.0] * len(params) if weights is None else weights
    matrices = [each for each in zip(params, direction, weights, strict=True) if each[0].dim() > 1]
    if not matrices:
        return 0.0
    figures = gather([number for param, moves, _ in matrices for number in (_sum_of_squares(param), *_spread(moves))])
    even = [
        (square, moved, param, weight)
        for (square, moved, evenness), (param, _, weight) in zip(figures.view(-1, 3).tolist(), matrices, strict=True)
        if square > 0 and weight > 0 and evenness > _EVEN
    ]
    if not even:
        return 0.0
    typical = _typical_rate((square, moved / weight**2, *_rows_and_columns(p)) for square, moved, p, weight in even)
    return typical / statistics.fmean(weight for *_, weight in even)


def _spread(direction: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sum of squares, and the ratio of the mean entry to the root of the mean square where entries move."""
    squares = _sum_of_squares(direction)
    wide = torch.promote_types(direction.dtype, torch.float32)
    total = torch.linalg.vector_norm(direction, 1, dtype=wide)
    return squares, total / (squares * torch.count_nonzero(direction)).sqrt()


def _typical_rate(matrices: Iterable[tuple[float, float, int, int]]) -> float:
    """Return the median rate of matrices, each given by two sums of squares (of it, of the step) and its two sizes."""
    rates = [
        math.sqrt(square / moved) * (math.sqrt(rows) + math.sqrt(columns)) / math.sqrt(rows * columns)
        for square, moved, rows, columns in matrices
        if square > 0
    ]
    return statistics.median(rates) if rates else 0.0


def _sum_of_squares(tensor: Tensor) -> Tensor:
    wide = torch.promote_types(tensor.dtype, torch.float32)
    return torch.linalg.vector_norm(tensor, dtype=wide).square()


def _rows_and_columns(tensor: Tensor) -> tuple[int, int]:
    return tensor.shape[0], tensor.numel() // tensor.shape[0]
