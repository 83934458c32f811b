"""Numbers of the trainer's section that Lightning and TensorBoard take without a look and stumble over later."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lightning.pytorch.utilities.exceptions import MisconfigurationException

# Arguments that TensorBoardLogger hands on, whose type nobody looks at until the first event is written.
_LOGGER_INTEGERS = ("max_queue", "flush_secs")


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
    if isinstance(interval, int) and not isinstance(interval, bool) and interval == 0:
        raise MisconfigurationException(
            "trainer.val_check_interval: 0 is not allowed; a number of batches from 1 on, or a share of the epoch; "
            "limit_val_batches: 0 does without validation"
        )
    if isinstance(epochs, int) and epochs < 1:
        raise MisconfigurationException(
            f"trainer.check_val_every_n_epoch: {epochs} is not allowed; 1 or more, or null; limit_val_batches: 0 does "
            "without validation"
        )
    for name, value in _logger_arguments(trainer.get("logger")):
        if name in _LOGGER_INTEGERS and (isinstance(value, bool) or not isinstance(value, int)):
            raise MisconfigurationException(f"trainer.logger.{name}: {value!r} is not allowed; an integer")


def _logger_arguments(logger: Any) -> Iterator[tuple[str, Any]]:
    for each in logger if isinstance(logger, list) else [logger]:
        for section in ("init_args", "dict_kwargs"):
            arguments = each.get(section) if hasattr(each, "get") else None
            if arguments:
                yield from (arguments.as_dict() if hasattr(arguments, "as_dict") else arguments).items()
