"""Lightning's ModelCheckpoint in runs with manual optimization, and in runs that go on in another folder."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_modules.checkpoints.loop_progress import validates_after_batch

# What is used of ModelCheckpoint and is not public.
_NOT_PUBLIC = ("_every_n_epochs", "_monitor_candidates", "_save_on_train_epoch_end", "_should_save_on_train_epoch_end")


def save_by_step_and_time(trainer: Trainer) -> None:
    """Let every ModelCheckpoint save by step and by time as it does under automatic optimization.

    Under manual optimization its hook `on_train_batch_end` (lightning 2.6.6) has a branch of its own. That one never
    looks at `train_time_interval`, saves with the metric of an earlier validation where one is about to run, and loads
    what a module has in `saved_models` into what it has in `layer`. The hook is called with a stand-in for the module,
    of which it reads `automatic_optimization` alone.

    A save that waits for the first value of its monitor is made at the end of a validation, and only where saves are
    not at the end of an epoch, which is the default where each epoch has one validation: so saves by step or time were
    lost. They are set to be after validations.

    Right before a validation within an epoch it saves with the score of the validation before that one, and what this
    validation finds is given to the weights of the next save: the best checkpoint is an interval late. Such a save
    waits for the validation, as Lightning lets one in an epoch's last batch wait.

    Args:
        trainer: A trainer whose fit is about to start.

    Raises:
        RuntimeError: if lightning is of a version that this was not written for.
    """
    for callback in trainer.checkpoint_callbacks:
        if type(callback) is not ModelCheckpoint:
            continue  # a subclass has its own ways
        missing = [name for name in _NOT_PUBLIC if not hasattr(callback, name)]
        if missing:
            raise RuntimeError(f"lightning {lightning.__version__}: ModelCheckpoint has no {', '.join(missing)}")
        if callback._every_n_epochs == 0 and callback._save_on_train_epoch_end is None:
            callback._save_on_train_epoch_end = False
        callback.on_train_batch_end = partial(_at_batch_end, callback)  # type: ignore[method-assign]


def _at_batch_end(callback: ModelCheckpoint, trainer: Trainer, *_: Any) -> None:
    module: Any = SimpleNamespace(automatic_optimization=True)
    waits = (
        callback.monitor is not None
        and validates_after_batch(trainer, trainer.current_epoch + 1)
        and not callback._should_save_on_train_epoch_end(trainer)
    )
    if waits:
        callback._monitor_candidates = lambda trainer: {}  # type: ignore[method-assign]
    try:
        ModelCheckpoint.on_train_batch_end(callback, trainer, module, None, None, 0)
    finally:
        vars(callback).pop("_monitor_candidates", None)


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


def _present(path: str, resumed_from: str) -> str:
    """Return a checkpoint's path, or that of the file of its name beside another checkpoint; empty if there is none."""
    moved = Path(resumed_from).parent / Path(path).name
    return next((str(file) for file in (Path(path), moved) if path and file.expanduser().exists()), "")
