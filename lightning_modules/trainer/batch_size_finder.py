"""Lightning's search for a batch size (BatchSizeFinder, ``Tuner.scale_batch_size``) under the data's names for it."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BatchSizeFinder

from lightning_modules.errors import ModelError
from lightning_modules.trainer.trainer_callbacks import callbacks_of
from optimizers.checks import require_private

# What is used of BatchSizeFinder and is not public: the attribute that it changes, its first value, and whether the run
# is the Tuner's, which ends with the search.
_NOT_PUBLIC = ("_batch_arg_name", "_init_val", "_early_exit")
_OF_TRAINING, _OF_EVALUATIONS = "train_batch_size", "eval_batch_size"


def check_batch_size_finders(trainer: Trainer, module: LightningModule) -> None:
    """Refuse a search for a batch size that the run does not use, and begin one that has no value yet.

    Lightning 2.6.6 ends in an AssertionError where the attribute is None, as ``eval_batch_size`` is by default, and
    searches without effect where it is not that of the run's batches.

    Args:
        trainer: A trainer that is about to fit, validate, test or predict.
        module: Its module.

    Raises:
        ModelError: one line: what to give.
        RuntimeError: if lightning is of a version that this was not written for.
    """
    data = getattr(trainer, "datamodule", None)
    for finder in callbacks_of(trainer, BatchSizeFinder):
        require_private(finder, BatchSizeFinder, *_NOT_PUBLIC)
        why = _why_not(finder, trainer, module, data)
        if why:
            raise ModelError(f"trainer.callbacks: {type(finder).__name__}: {why}")
        if getattr(data, finder._batch_arg_name, 0) is None and not hasattr(module, finder._batch_arg_name):
            setattr(data, finder._batch_arg_name, finder._init_val)


def refuse_batch_sizes_in_training(trainer: Trainer) -> None:
    """Let BatchSizeFinder refuse to search from now on, in the middle of a training.

    Lightning 2.6.6 tries no batch size there, since the steps made are beyond those of a trial, reports the largest one
    as found, and leaves out epochs of the training.

    Args:
        trainer: A trainer that starts to train. In a search at the start of a fit it has other callbacks.
    """
    for finder in callbacks_of(trainer, BatchSizeFinder):
        finder.scale_batch_size = _refuse  # type: ignore[method-assign]


def allow_batch_sizes(trainer: Trainer) -> None:
    """Let BatchSizeFinder search again."""
    for finder in callbacks_of(trainer, BatchSizeFinder):
        vars(finder).pop("scale_batch_size", None)


def _refuse(trainer: Trainer, pl_module: LightningModule) -> None:
    raise ModelError(
        "trainer.callbacks: BatchSizeFinder: a search for the batch size in the middle of a training would leave out "
        "epochs of it; search at its start (on_fit_start)"
    )


def _why_not(finder: BatchSizeFinder, trainer: Trainer, module: LightningModule, data: Any) -> str:
    """Return why a search would fail or have no effect, and what to give; empty if it would not."""
    name, run = finder._batch_arg_name, str(getattr(trainer.state.fn, "value", ""))
    is_fit = run == "fit"
    right, wrong = (_OF_TRAINING, _OF_EVALUATIONS) if is_fit else (_OF_EVALUATIONS, _OF_TRAINING)
    give = f"give data.{right} (batch_arg_name: {right})"
    if not any(hasattr(owner, name) or name in getattr(owner, "hparams", ()) for owner in (module, data)):
        return f"neither model nor data have {name}; {give}"
    # A callback of a fit is also called when its trainer or its configuration evaluates.
    is_meant = is_fit or finder._early_exit
    if is_meant and name == wrong and hasattr(data, right) and not hasattr(module, name):
        return f"{wrong} has no effect on {'a fit' if is_fit else run}; {give}"
    if getattr(module, name, 0) is None:
        return f"the model's {name} is None; give it a number"
    return ""
