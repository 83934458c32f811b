"""How large a step of Adam is beside the matrices that it changes."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import torch

from optimizers.group_update import GroupUpdate, over_ranks
from optimizers.scalars import gather


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
                wide = torch.promote_types(param.dtype, torch.float32)
                sums.append(torch.linalg.vector_norm(param, dtype=wide).square() * share)
                shapes.append((owner.shape[0], owner.numel() // owner.shape[0]))
    if not sums:
        return 0.0
    squares = over_ranks(gather(sums), updates).tolist()
    rates = [
        math.sqrt(square / (rows * columns)) * (rows**-0.5 + columns**-0.5)
        for square, (rows, columns) in zip(squares, shapes, strict=True)
        if square > 0
    ]
    return statistics.median(rates) if rates else 0.0
