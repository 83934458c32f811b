"""The checkpoint of weights that lie between the pretrained and the trained ones."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from callbacks.checkpoints.checkpoint_reading import FACTS, UNREAD_CLASSES
from callbacks.files.new_file import free_name
from callbacks.scores.validation_scorer import short_name

# Key of what a checkpoint says of its place on the line.
INTERPOLATION = "interpolation"
# What a run goes on from, and the kept weights are not part of.
_TO_RESUME = ("optimizer_states", "lr_schedulers", "loops", "training_weights", UNREAD_CLASSES)


def mark_interpolated(
    checkpoint: dict[str, Any], facts: Mapping[str, Any], scores: Mapping[str, float]
) -> dict[str, Any]:
    """Return a checkpoint of interpolated weights: it says what they are, and holds nothing that a run goes on from.

    Args:
        checkpoint: A checkpoint whose weights are interpolated.
        facts: What it says of the interpolation, in plain types.
        scores: Of the weights on all validation rows, by name without ``val/``.
    """
    marked = {name: value for name, value in checkpoint.items() if name not in _TO_RESUME}
    marked[INTERPOLATION] = dict(facts)
    if marked.get(FACTS):
        # What else was measured of the trained weights is not known of these.
        marked[FACTS] = marked[FACTS] | {"metrics": {f"val/{name}": value for name, value in scores.items()}}
    return marked


def save_interpolated(
    trainer: Trainer,
    module: Any,
    saver: ModelCheckpoint,
    trained: Mapping[str, Any],
    facts: Mapping[str, Any],
    scores: Mapping[str, float],
) -> None:
    """Write a module's weights beside the best checkpoint, and make the file the best one; on all ranks.

    Args:
        trainer: The trainer of a fit that is at its end.
        module: The module, with the weights to write.
        saver: The callback whose best checkpoint it becomes.
        trained: That best checkpoint until now.
        facts: What the file says of the interpolation, in plain types.
        scores: Of the module's weights on all validation rows, by name without ``val/``.
    """
    stem, _ = os.path.splitext(saver.best_model_path)
    path = trainer.strategy.broadcast(free_name(f"{stem}-interpolated.ckpt"))
    score = scores.get(short_name(saver.monitor)) if saver.monitor else None
    best: dict[str, Any] = {"best_model_path": path}
    if score is not None:
        best |= dict.fromkeys(("best_model_score", "current_score"), torch.tensor(score))
    checkpoint = mark_interpolated(dict(trained), facts, scores)
    checkpoint["state_dict"] = module.state_dict()
    checkpoint["callbacks"] = {**trained.get("callbacks", {}), saver.state_key: saver.state_dict() | best}
    if saver.monitor is None:  # the weights are of the run's end, and so may be later than the file
        checkpoint |= {"epoch": trainer.current_epoch, "global_step": trainer.global_step}
    if "task" in trained:
        checkpoint["task"] = trained["task"] | {"temperature": getattr(module, "temperature", 1.0)}
    trainer.strategy.save_checkpoint(checkpoint, path)
    trainer.strategy.barrier("PretrainedInterpolation")
    # Not before: a disk may be full.
    for name, value in best.items():
        setattr(saver, name, value)
