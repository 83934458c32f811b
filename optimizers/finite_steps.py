"""Steps whose loss or gradient is not finite: left out on a CPU, gradients zeroed on an accelerator."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from optimizers.group_update import GroupUpdate
from optimizers.scalars import gather
from optimizers.shards import true_on_all_ranks


def finite_start(loss: Tensor | float, updates: Sequence[GroupUpdate]) -> Tensor | float | None:
    """Return the loss that a step starts from; None where the step is to be left out.

    On a device, asking whether everything is finite would stall it. There the gradients of such a step are set to zero,
    so that momentum alone moves the parameters, and the loss becomes NaN, so that a search fails at its first trial.

    Args:
        loss: The loss at the start of the step.
        updates: What moves; each has a gradient.
    """
    if not updates:
        return loss
    norms = [norm for update in updates for norm in update.gradient_norms()]
    if isinstance(loss, Tensor):
        finite = gather([*norms, loss]).isfinite().all()
    else:
        finite = gather(norms).isfinite().all() & math.isfinite(loss)
    if updates[0].shares is not None:
        finite = true_on_all_ranks(finite)
    if finite.device.type == "cpu":
        return loss if finite else None
    broken = ~finite
    for update in updates:
        for grad in update.grads:
            grad.masked_fill_(broken.to(grad.device, non_blocking=True), 0.0)
    return torch.where(finite, loss, torch.nan)
