"""What Lightning's callbacks take from a checkpoint that a fit goes on from, corrected before they take it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint


def carry_over_best(trainer: Trainer, checkpoint: dict[str, Any]) -> None:
    """Let a run that goes on in another folder know the best checkpoints until then, and their scores.

    `ModelCheckpoint` takes over the path alone where its folder is another one (lightning 2.6.6), so that the next
    checkpoint, however bad, becomes the best. Files that are gone are forgotten; files that were moved together with
    the one that the run resumes from are found beside it.

    Args:
        trainer: A trainer that is about to restore its callbacks.
        checkpoint: What it resumes from; the states of its callbacks are changed.
    """
    states, resumed_from = checkpoint.get("callbacks", {}), str(trainer.ckpt_path)
    for callback in trainer.checkpoint_callbacks:
        state = states.get(callback.state_key)
        if not isinstance(callback, ModelCheckpoint) or not state or state.get("dirpath") in (None, callback.dirpath):
            continue
        if "://" in resumed_from or "://" in str(state["dirpath"]):
            continue
        kept = {_present(path, resumed_from): score for path, score in state.get("best_k_models", {}).items()}
        kept.pop("", None)
        choose = {"min": (min, max), "max": (max, min)}[callback.mode]
        best, worst = (choice(kept, key=kept.__getitem__) if kept else "" for choice in choose)
        states[callback.state_key] = state | {
            "dirpath": callback.dirpath,
            "best_k_models": kept,
            "best_model_path": best or _present(state["best_model_path"], resumed_from),
            "best_model_score": kept.get(best),
            "kth_best_model_path": worst if len(kept) == callback.save_top_k else "",
            "last_model_path": "",
        }


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


def _present(path: str, resumed_from: str) -> str:
    """Return a checkpoint's path, or that of the file of its name beside another checkpoint; empty if there is none."""
    moved = Path(resumed_from).parent / Path(path).name
    return next((str(file) for file in (Path(path), moved) if path and file.expanduser().exists()), "")
