"""A folder for runs that the command line names and a configuration file's logger does not use."""

from __future__ import annotations

from collections.abc import Sequence

from jsonargparse import Namespace
from lightning.pytorch.utilities import rank_zero_warn

from linetune.arguments import value_of
from linetune.trainer_section import listed


def warn_of_unused_root(trainer: Namespace, arguments: Sequence[str]) -> None:
    """Warn that a ``default_root_dir`` has no effect where a configuration file gives the logger a folder.

    Args:
        trainer: The trainer's section of the configuration.
        arguments: The command line's.
    """
    root, first = value_of(arguments, "--trainer.default_root_dir"), next(iter(listed(trainer, "logger")), None)
    folder = first.get("init_args", Namespace()).get("save_dir") if isinstance(first, Namespace) else None
    is_named = any(each.startswith("--trainer.logger") and "save_dir" in each for each in arguments)
    if root is not None and folder is not None and not is_named:
        rank_zero_warn(
            f"trainer.default_root_dir: the run is written to {folder}, its logger's folder, and not to {root}; give "
            f"--trainer.logger.save_dir {root}"
        )
