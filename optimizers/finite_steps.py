"""The check within an optimizer's step that loss and gradients are finite, for loops that have not checked before.

`lightning_modules/steps/skipped_steps.py` checks before an optimizer is called, and then sets its `checks_finite` to
False.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from optimizers.group_update import GroupUpdate
from optimizers.scalars import gather
from optimizers.shards import local_part, true_on_all_ranks

_HALF = (torch.float16, torch.bfloat16)


def all_finite(loss: Tensor | float, grads: Iterable[Tensor]) -> Tensor:
    """Return whether a loss and every entry of some gradients are finite, as a 0-dim tensor, without a synchronisation.

    Of a sharded gradient (DTensor) this rank's part is looked at.

    Args:
        loss: The loss.
        grads: Gradients of any dtypes, on any devices, sparse ones too.
    """
    alike: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
    for grad in grads:
        local = local_part(grad)
        dense = local.coalesce().values() if local.is_sparse else local
        alike.setdefault((dense.dtype, dense.device), []).append(dense)
    norms = [
        norm
        for (dtype, _), some in alike.items()
        for norm in torch._foreach_norm(some, 2, dtype=torch.float32 if dtype in _HALF else None)
    ]
    if isinstance(loss, Tensor):
        return gather([*norms, loss]).isfinite().all()
    # As a float32 tensor a large float would be infinite.
    is_finite = math.isfinite(loss)
    return gather(norms).isfinite().all() & is_finite if norms else torch.tensor(is_finite)


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
    finite = all_finite(loss, [grad for update in updates for grad in update.grads])
    if updates[0].shares is not None:
        finite = true_on_all_ranks(finite)
    if finite.device.type == "cpu":
        return loss if finite else None
    broken = ~finite
    for update in updates:
        for grad in update.grads:
            grad.masked_fill_(broken.to(grad.device, non_blocking=True), 0.0)
    return torch.where(finite, loss, torch.nan)
