"""The trainer's section of a configuration: what it lists, and values that Lightning would get wrong."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pydoc import locate
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException

# Arguments that TensorBoardLogger hands on, whose type nobody looks at until the first event is written.
_COUNTS, _TEXTS = ("max_queue", "flush_secs", "purge_step"), ("filename_suffix", "comment")
_LARGEST = 2**31 - 1
# More devices than any machine has; Lightning makes a list of them before it looks.
_MOST_DEVICES = 100_000


def listed(trainer: Namespace | Mapping[str, Any] | None, name: str) -> list[Any]:
    """Return what a trainer's section gives for `callbacks` or `logger`: none, one that stands alone, or several."""
    given = None if trainer is None else trainer.get(name)
    return given if isinstance(given, list) else [] if given is None else [given]


def check_trainer_numbers(trainer: Any) -> None:
    """Refuse numbers that would end a run in the middle.

    Args:
        trainer: The trainer's section of the configuration.

    Raises:
        MisconfigurationException: one line: the key, what was given and what is allowed.
    """
    if not hasattr(trainer, "get"):
        raise MisconfigurationException(f"trainer: {trainer!r} is not allowed; a section with the trainer's arguments")
    interval, epochs = trainer.get("val_check_interval"), trainer.get("check_val_every_n_epoch")
    if isinstance(interval, int | float) and not isinstance(interval, bool) and interval == 0:
        raise MisconfigurationException(
            f"trainer.val_check_interval: {interval} is not allowed; a number of batches from 1 on, or a share of the "
            "epoch; limit_val_batches: 0 does without validation"
        )
    if isinstance(epochs, int) and epochs < 1:
        raise MisconfigurationException(
            f"trainer.check_val_every_n_epoch: {epochs} is not allowed; 1 or more, or null; limit_val_batches: 0 does "
            "without validation"
        )
    for name in ("devices", "num_nodes"):
        count = trainer.get(name)
        if isinstance(count, int) and count > _MOST_DEVICES:
            raise MisconfigurationException(f"trainer.{name}: {count} is not allowed; {_MOST_DEVICES} at most")
    for name, value in _logger_arguments(trainer):
        is_count = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _LARGEST
        if name in _COUNTS and not is_count and not (name == "purge_step" and value is None):
            raise MisconfigurationException(f"trainer.logger.{name}: {value!r} is not allowed; 0 to {_LARGEST}")
        if name in _TEXTS and not isinstance(value, str):
            raise MisconfigurationException(f"trainer.logger.{name}: {value!r} is not allowed; a text")


def expand_save_dir(trainer: Namespace) -> None:
    """Put the values of environment variables into the ``save_dir`` of TensorBoardLogger.

    The logger does so for its own files, and ModelCheckpoint does not (lightning 2.6.6): a run was divided between
    ``$SCRATCH/runs`` and a folder called ``$SCRATCH``.

    Args:
        trainer: The trainer's section of the configuration; changed in place.
    """
    for logger in listed(trainer, "logger"):
        if isinstance(logger, Namespace) and locate(logger.class_path) is TensorBoardLogger:
            logger.init_args.save_dir = os.path.expandvars(logger.init_args.save_dir)


def _logger_arguments(trainer: Namespace) -> Iterator[tuple[str, Any]]:
    for each in listed(trainer, "logger"):
        for section in ("init_args", "dict_kwargs"):
            arguments = each.get(section) if hasattr(each, "get") else None
            if arguments:
                yield from (arguments.as_dict() if hasattr(arguments, "as_dict") else arguments).items()
