"""The patience of early stopping in a run that goes on: what the run is given, in place of what its checkpoint says."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Trainer


def keep_given_patience(trainer: Trainer, checkpoint: dict[str, Any]) -> None:
    """Let `EarlyStopping` go on counting from a checkpoint, with the patience of this run.

    It takes over the patience too (lightning 2.6.6), so that a run that stopped too early stops at once again.

    Args:
        trainer: A trainer that is about to restore its callbacks.
        checkpoint: What it resumes from; the states of its callbacks are changed.
    """
    states = checkpoint.get("callbacks", {})
    for callback in trainer.early_stopping_callbacks:
        if state := states.get(callback.state_key):
            states[callback.state_key] = state | {"patience": callback.patience}
