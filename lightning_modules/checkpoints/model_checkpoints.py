"""Saves of Lightning's ModelCheckpoint in runs with manual optimization: by step and time, with scores of their own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from lightning_modules.checkpoints.loop_progress import validates_after_batch
from optimizers.checks import require_private

# Key of a checkpoint's entry: the ModelCheckpoints, by their keys, whose save waits for a validation.
WAITING = "waiting_saves"
# What is used of ModelCheckpoint and is not public.
_NOT_PUBLIC = (
    "_defer_save_until_validation",
    "_last_global_step_saved",
    "_monitor_candidates",
    "_save_last_checkpoint",
    "_save_topk_checkpoint",
    "_should_skip_saving_checkpoint",
)


def save_with_own_scores(trainer: Trainer, checkpoint: Mapping[str, Any], metrics: Mapping[str, Tensor]) -> None:
    """Let every ModelCheckpoint save by step and by time, with the score of the weights that it saves or with none.

    Under manual optimization its hook `on_train_batch_end` (lightning 2.6.6) has a branch of its own. That one never
    looks at `train_time_interval`, saves with the metric of an earlier validation where one is about to run, and loads
    what a module has in `saved_models` into what it has in `layer`. The hook is called with a stand-in for the module,
    of which it reads `automatic_optimization` alone.

    Under automatic optimization as well, what is saved between two validations gets the score of the earlier one, and
    may become the best checkpoint by it. Here a save of the best ones waits for the next validation and is made there,
    with its weights and score. Those that keep every checkpoint (``save_top_k=-1``) and `save_last` do not wait: what
    they save between two validations has the score NaN, in its name too, and is never the best.

    Args:
        trainer: A trainer whose fit is about to start.
        checkpoint: What the fit goes on from; empty if it does not.
        metrics: The values that callbacks find in a fit that goes on, which are of no weights of this run.

    Raises:
        RuntimeError: if lightning is of a version that this was not written for.
    """
    for callback in trainer.checkpoint_callbacks:
        if type(callback) is not ModelCheckpoint:
            continue  # a subclass has its own ways
        require_private(callback, ModelCheckpoint, *_NOT_PUBLIC)
        callback._defer_save_until_validation = callback.state_key in checkpoint.get(WAITING, ())
        _OwnScores(callback, metrics).install()


def waiting_saves(trainer: Trainer) -> list[str]:
    """Return the keys of the ModelCheckpoints whose save waits for a validation."""
    savers = [each for each in trainer.checkpoint_callbacks if isinstance(each, ModelCheckpoint)]
    return [each.state_key for each in savers if getattr(each, "_defer_save_until_validation", False)]


class _OwnScores:
    """Knows of which step's weights the values are that a ModelCheckpoint finds, and what of its saves waits."""

    def __init__(self, callback: ModelCheckpoint, metrics: Mapping[str, Tensor]) -> None:
        self._callback = callback
        # What validations have logged, and the step of the weights; anything logged since is elsewhere in memory.
        self._measured: dict[str, tuple[Tensor, int]] = {name: (value, -1) for name, value in metrics.items()}
        self._before: dict[str, Tensor] = {}
        self._at_batch_end = False

    def install(self) -> None:
        """Put the hooks in place of those of the callback."""
        callback: Any = self._callback
        callback.on_train_batch_end = self._on_train_batch_end
        callback.on_validation_start = self._on_validation_start
        callback.on_validation_end = self._on_validation_end
        callback._monitor_candidates = self._candidates
        callback._save_topk_checkpoint = self._save_top
        callback._save_last_checkpoint = self._save_last

    def _on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        module: Any = SimpleNamespace(automatic_optimization=True)
        self._at_batch_end = True
        try:
            ModelCheckpoint.on_train_batch_end(self._callback, trainer, module, None, None, 0)
        finally:
            self._at_batch_end = False

    def _on_validation_start(self, trainer: Trainer, *_: Any) -> None:
        self._before = dict(trainer.callback_metrics)

    def _on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        callback, metrics = self._callback, trainer.callback_metrics
        new = {name: value for name, value in metrics.items() if not _is_same(value, self._before.get(name))}
        self._measured |= {name: (value, trainer.global_step) for name, value in new.items()}
        if not callback._defer_save_until_validation or trainer.sanity_checking:
            ModelCheckpoint.on_validation_end(callback, trainer, module)
            return
        callback._defer_save_until_validation = False
        callback._last_global_step_saved = -1  # what was saved in this step has no score
        if not callback._should_skip_saving_checkpoint(trainer):
            candidates = self._candidates(trainer)
            self._save_top(trainer, candidates)
            self._save_last(trainer, candidates)

    def _candidates(self, trainer: Trainer) -> dict[str, Tensor]:
        found = ModelCheckpoint._monitor_candidates(self._callback, trainer)
        others = [name for name in self._measured if name in found and self._is_of_other_weights(name, trainer)]
        return found | {name: torch.tensor(math.nan, device=found[name].device) for name in others}

    def _is_of_other_weights(self, name: str | None, trainer: Trainer) -> bool:
        value, step = self._measured.get(str(name), (None, trainer.global_step))
        return step != trainer.global_step and _is_same(value, trainer.callback_metrics.get(str(name)))

    def _is_about_to_be_measured(self, trainer: Trainer) -> bool:
        has_monitor = self._callback.monitor is not None
        return has_monitor and self._at_batch_end and validates_after_batch(trainer, trainer.current_epoch + 1)

    def _save_top(self, trainer: Trainer, candidates: dict[str, Tensor]) -> None:
        callback = self._callback
        is_soon, is_late = self._is_about_to_be_measured(trainer), self._is_of_other_weights(callback.monitor, trainer)
        if (is_soon or is_late) and callback.save_top_k != 0:
            callback._defer_save_until_validation = True
        if not is_soon and (not is_late or callback.save_top_k == -1):
            ModelCheckpoint._save_topk_checkpoint(callback, trainer, candidates)

    def _save_last(self, trainer: Trainer, candidates: dict[str, Tensor]) -> None:
        if not (self._is_about_to_be_measured(trainer) and self._callback._defer_save_until_validation):
            ModelCheckpoint._save_last_checkpoint(self._callback, trainer, candidates)


def _is_same(one: Tensor | None, other: Tensor | None) -> bool:
    """Return whether two values, both of which are kept, are the same in memory: Lightning detaches at each access."""
    return one is not None and other is not None and one.data_ptr() == other.data_ptr()
