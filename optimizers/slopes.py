"""The slope of the loss along a direction: its inner product with the gradient, for one param group."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from optimizers.direction_pieces import Piece
from optimizers.directions import Direction
from optimizers.group_update import GroupUpdate
from optimizers.scalars import gather
from optimizers.table_rows import of_rows, rows_in_use

_HALF = (torch.float16, torch.bfloat16)


def slope(update: GroupUpdate, without_momentum: bool) -> Tensor:
    """Return the inner product of gradient and direction: 0-dim, float32 at least, on the device.

    Of sharded parameters it is the rank's own part, a term of a sum (`group_update.over_ranks`).
    """
    direction = update.along(without_momentum)
    products = []
    for piece, grad in _with_gradients(update, direction):
        product = inner_product(grad, piece.over_denominator(piece.numerator))
        if update.shares is not None and update.shares[piece.index] != 1:
            product = product * update.shares[piece.index]
        products.append(product if direction.scales is None else product * direction.scales[piece.index])
    return gather(products).sum() * update.factor


def split_slope(update: GroupUpdate, newest: float) -> Tensor:
    """Return the slope in two parts, a row for each tensor: that of earlier gradients, and that of the present one.

    The two columns of a row add up to the tensor's part of `slope`.

    Args:
        update: The group, with the direction of this step.
        newest: The weight of the present gradient in the direction's numerators.
    """
    direction, tensors = update.direction, len(update.grads)
    scales = direction.scales or [1.0] * tensors
    if update.shares is not None:
        scales = [scale * share for scale, share in zip(scales, update.shares, strict=True)]
    owners, earlier, present = [], [], []
    for piece, grad in _with_gradients(update, direction):
        scale, move = scales[piece.index], piece.over_denominator(grad)
        own = inner_product(grad, move) * (newest * scale)
        owners.append(piece.index)
        earlier.append(inner_product(piece.numerator, move) * scale - own)
        present.append(own)
    slopes = torch.stack([gather(earlier), gather(present)], dim=1) * update.factor
    if len(owners) > tensors:
        slopes = slopes.new_zeros(tensors, 2).index_add_(0, torch.tensor(owners), slopes)
    return slopes


def inner_product(one: Tensor, other: Tensor) -> Tensor:
    """Return the inner product of two real tensors of one type, in this type.

    On a CPU not by `torch.dot`: that follows torch's setting for products of float32 matrices
    (`set_float32_matmul_precision`) to oneDNN, which takes several times as long and is allowed to round to bfloat16.
    """
    return (one * other).sum() if one.device.type == "cpu" else torch.dot(one.reshape(-1), other.reshape(-1))


def _with_gradients(update: GroupUpdate, direction: Direction) -> Iterator[tuple[Piece, Tensor]]:
    """Yield a direction's pieces and the gradient's, in float32 at least, without rows that have no gradient."""
    rows = list(map(rows_in_use, update.grads))
    for piece in update.pieces(direction, rows, list(map(of_rows, update.grads, rows))):
        (grad,) = piece.beside
        if grad.dtype in _HALF:
            grad, piece.numerator = grad.float(), piece.numerator.float()
        yield piece, grad
