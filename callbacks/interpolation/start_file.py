"""The weights at the start of a fit in a file of the run, for modules that cannot read them again."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor

from callbacks.files.file_systems import is_remote
from callbacks.files.new_file import numbered_names
from callbacks.files.run_folder import run_folder

_NAME = "start_weights.pt"


def write_start(trainer: Trainer, module: LightningModule) -> str:
    """Write a module's weights to ``start_weights.pt`` in the run's folder, and return the file's path; on all ranks.

    Runs without a logger share a folder: where the name is taken, the file is ``start_weights-v1.pt`` and so on.

    Args:
        trainer: The trainer of a fit that begins.
        module: Its module.

    Raises:
        MisconfigurationException: if the run's folder is on a remote file system.
    """
    folder = run_folder(trainer)
    if is_remote(folder):
        raise MisconfigurationException(
            f"PretrainedInterpolation: the run's folder, {folder}, is not on this machine, where the weights from the "
            "start of a fit are kept; choose one that is, or let the module define start_weights()"
        )
    file = Path(folder).absolute() / _NAME
    if trainer.is_global_zero:
        file.parent.mkdir(parents=True, exist_ok=True)
        unfinished = file.with_name(f".{file.name}.{os.getpid()}")
        weights = {name: value.cpu() for name, value in module.state_dict().items() if isinstance(value, Tensor)}
        try:
            torch.save(weights, unfinished)
            file = next(filter(_is_claimed, map(Path, numbered_names(str(file)))))
            unfinished.replace(file)
        finally:
            unfinished.unlink(missing_ok=True)  # half of it, on a full disk
    return trainer.strategy.broadcast(str(file))


def _is_claimed(file: Path) -> bool:
    """Make an empty file, and return whether it did not exist: of several processes one alone succeeds."""
    try:
        file.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def start_of_resumed(written: str | None, resumed_from: str) -> str:
    """Return the file of the run that a fit goes on from: where it was written, or where its folder was moved to.

    Args:
        written: The path that it was written at; None if the run had none.
        resumed_from: The run's checkpoint.

    Raises:
        MisconfigurationException: if it is in neither place.
    """
    moved, name = Path(resumed_from).absolute().parent, Path(written or _NAME).name
    places = [Path(written or _NAME), moved.parent / name, moved / name]
    found = [place for place in places if written and place.is_file()]
    if not found:
        raise MisconfigurationException(
            f"PretrainedInterpolation: the run that goes on has no {written or _NAME} with the weights that it started "
            "from; leave the callback out"
        )
    return str(found[0])


def read_start(file: str) -> dict[str, Tensor]:
    """Return the weights of such a file, on the CPU."""
    return torch.load(file, map_location="cpu", weights_only=True)
