"""Which run a checkpoint is of: that of the configuration that it names, or in whose folder it lies."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from jsonargparse import Namespace

from callbacks.checkpoints.checkpoint_reading import saved_entry
from callbacks.files.config_saver import CONFIG_FILE
from callbacks.files.file_systems import is_remote
from linetune.trainer_section import listed


def own_folders(trainer: Namespace | None) -> list[str]:
    """Return the folders that the ModelCheckpoints of a configuration were given as `dirpath`, as they write there.

    Args:
        trainer: The trainer's part of a configuration.
    """
    callbacks = [each for each in listed(trainer, "callbacks") if isinstance(each, Namespace)]
    folders = [str(each.init_args.dirpath) for each in callbacks if (each.get("init_args") or {}).get("dirpath")]
    return [each if is_remote(each) else os.path.realpath(os.path.expanduser(each)) for each in folders]


def files_in(folders: Sequence[str | Path]) -> list[Path]:
    """Return the checkpoints in folders of this machine, files and folders of sharded ones."""
    return [file for folder in map(Path, folders) if folder.is_dir() for file in folder.glob("*.ckpt")]


def config_named_in(file: Path) -> Path | None:
    """Return the path of the configuration that a checkpoint names; None for one of another program or version."""
    named = saved_entry(file, CONFIG_FILE)
    return Path(named) if isinstance(named, str) and not is_remote(named) else None


def run_of(file: Path) -> Path:
    """Return the folder of the run that a checkpoint is of, which need not exist any more."""
    named = config_named_in(file)
    return (file.parent if named is None else named).parent.resolve()


def of_run(run: Path, files: Sequence[Path]) -> list[Path]:
    """Return those of several checkpoints that name a configuration in the folder of a run.

    Where there are none, those of a folder that is gone and was called alike: the run was moved.

    Args:
        run: The folder.
        files: Checkpoints in a folder that several runs may share.
    """
    named = {file: found.parent for file in files if (found := config_named_in(file)) is not None}
    own = [file for file, folder in named.items() if folder.resolve() == run.resolve()]
    moved = {file: folder for file, folder in named.items() if not folder.exists() and folder.name == run.name}
    return own or (list(moved) if len(set(moved.values())) == 1 else [])


def all_of_run(run: Path, shared: Sequence[Path]) -> set[Path]:
    """Return the checkpoints of a run: those in its folder, and those of `shared` as :func:`of_run` finds them."""
    return {*files_in([run / "checkpoints"]), *of_run(run, shared)}
