"""The axis of a fit's curves, for values that a callback hands to loggers itself."""

from __future__ import annotations

from lightning.pytorch import Trainer


def curve_end(trainer: Trainer) -> int:
    """Return where Lightning's own curves end: at the last step, counted from 0; at 0 before the first one."""
    return max(0, trainer.global_step - 1)
