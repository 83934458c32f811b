"""Averages of squared gradients that cannot fall in the precision that they are kept in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.optim import Optimizer


def warn_of_rounded_squares(optimizer: Optimizer) -> None:
    """Warn where an average of squared gradients is rounded so coarsely that it only rises.

    Adam and its kin keep it in the precision of the weights. A step multiplies it by ``betas[1]``, and in bfloat16 a
    number that falls by less than a 256th may be rounded to what it was: with 0.999 the largest gradients of a run, its
    first ones, hold the steps down for good.

    Args:
        optimizer: The optimizer, after a step, which has made its state.
    """
    for group in optimizer.param_groups:
        betas = group.get("betas")
        if not isinstance(betas, Sequence) or len(betas) < 2 or not isinstance(betas[1], float):
            continue
        for parameter in group["params"]:
            state = optimizer.state.get(parameter)
            squares = state.get("exp_avg_sq") if isinstance(state, Mapping) else None
            if not isinstance(squares, Tensor) or not squares.is_floating_point():
                continue
            if 1 - betas[1] < torch.finfo(squares.dtype).eps / 2:
                rank_zero_warn(
                    f"optimizer: {type(optimizer).__name__} keeps its average of squared gradients in {squares.dtype}, "
                    f"where it cannot fall with betas[1] {betas[1]:g}: as gradients become smaller, so do the steps; "
                    f"give betas [{betas[0]:g}, 0.99], or precision bf16-mixed"
                )
                return
