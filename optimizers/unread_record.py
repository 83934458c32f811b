"""The record of a step whose loss stays on its device until it is read."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from optimizers.step_contract import Loss, StepRecord

_WITHOUT_SEARCH = StepRecord(math.nan, math.nan, 0, 0, step_size=math.nan, slope=math.nan, accepted=True)


@dataclass(frozen=True)
class UnreadRecord:
    """What a step did, with its loss as it came: a step itself does not wait for the device.

    Args:
        loss: The loss at the start.
        record: The rest; its `accepted` holds if the loss is finite.
    """

    loss: Loss
    record: StepRecord

    def read(self) -> StepRecord:
        """Return the record; this waits for the device."""
        loss = float(self.loss)
        return replace(self.record, loss_before=loss, accepted=self.record.accepted and math.isfinite(loss))


def unread_record(loss: Loss, step_size: float, **found: Any) -> UnreadRecord:
    """Return the record of a step.

    Args:
        loss: The loss at the start, of which a copy is kept: the caller may go on to change it in place.
        step_size: The step size in force after the step.
        found: Further fields of a `StepRecord`; by default those of a step without a search.
    """
    loss = loss.clone() if isinstance(loss, Tensor) else loss
    return UnreadRecord(loss, replace(_WITHOUT_SEARCH, step_size=step_size, **found))
