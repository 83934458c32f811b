"""The checkpoint that `--ckpt_path last` stands for: the newest whole one of an experiment, or of one run of it."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from pydoc import locate
from typing import Any

import yaml
from jsonargparse import Namespace
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from callbacks.checkpoints.checkpoint_io import remove_leftovers
from callbacks.checkpoints.checkpoint_reading import read_without_shards
from callbacks.files.file_systems import is_remote
from lightning_modules import ModelError
from lightning_modules.checkpoints.checkpoint_check import check_resumable
from linetune.config_files import configs_in

# The entry in a configuration that was saved, which may go over several lines.
_CKPT_PATH = re.compile(r"^ckpt_path: .*(?:\n .*)*", re.MULTILINE)


def last_checkpoint(config: Namespace, subcommand: str) -> str | None:
    """Return the newest whole checkpoint of an experiment, and say in a line which it is, or that there is none.

    Looked through are the folders that the trainer's ModelCheckpoint may write into: its own `dirpath`, and
    ``save_dir/name/*/checkpoints`` of the first logger, for every version there. With the configuration that a run
    saved, that run's folder alone is looked through, and for `fit` those of the runs that went on from it.

    Args:
        config: The configuration of the subcommand.
        subcommand: The subcommand. For `fit` there need not be a checkpoint.

    Returns:
        The path; None for a fit that starts from the beginning; ``last`` where Lightning has to find it, with a logger
        whose folders are not known here.

    Raises:
        MisconfigurationException: there is no checkpoint, and the subcommand needs one.
    """
    beside = _beside_config(config, subcommand)
    found = checkpoint_folders(config.trainer)
    if beside is not None:
        found = _of_run(beside, found or []) if subcommand == "fit" else [beside]
    if found is None:
        return "last"
    files = files_in(found)
    for folder in found:
        remove_leftovers(folder)
    file = newest_whole(files, subcommand)
    if file is not None:
        say(f"ckpt_path last: {os.path.relpath(file)} ({len(files)} found)")
        return str(file)
    where = ", ".join(sorted({_shown(folder) for folder in found})) or "any run's folder"
    if subcommand != "fit":
        raise MisconfigurationException(f"ckpt_path: last: there is no whole checkpoint in {where}")
    say(f"ckpt_path last: there is no whole checkpoint in {where}: THE RUN STARTS FROM THE BEGINNING")
    return None


def files_in(folders: Sequence[Path]) -> list[Path]:
    """Return the checkpoints in folders, files and folders of sharded ones."""
    return [file for folder in folders for file in (folder.glob("*.ckpt") if folder.is_dir() else [])]


def newest_whole(files: Sequence[Path], subcommand: str) -> Path | None:
    """Return the newest whole checkpoint of several, and say which are skipped; None if there is none.

    Args:
        files: The checkpoints.
        subcommand: The subcommand; `fit` needs one that a run can go on from.
    """
    # A link to the newest file comes after the file itself.
    for file in sorted(files, key=lambda file: (-_changed(file), file.is_symlink())):
        try:
            checkpoint = read_without_shards(file)
            if subcommand == "fit":
                check_resumable(checkpoint)
        except (OSError, MisconfigurationException, ModelError) as error:
            reason = str(error).removeprefix("ckpt_path: ").removeprefix(f"{file} ")
            say(f"ckpt_path last: skipped {os.path.relpath(file)}: {reason}")
            continue
        return file
    return None


def checkpoint_folders(trainer: Namespace) -> list[Path] | None:
    """Return the folders that runs of a trainer's configuration write checkpoints into; None if that is not known.

    Args:
        trainer: The trainer's part of a configuration.
    """
    root = trainer.get("default_root_dir") or os.getcwd()
    given = trainer.get("callbacks") or []
    callbacks = [each for each in (given if isinstance(given, list) else [given]) if isinstance(each, Namespace)]
    own = [each.init_args.dirpath for each in callbacks if each.get("init_args", Namespace()).get("dirpath")]
    logger = trainer.get("logger")
    logger = logger[0] if isinstance(logger, list) and logger else logger
    version: Any = None
    if logger is False or logger == []:
        places = [str(root)]
    else:
        save_dir, name = root, "lightning_logs"
        if isinstance(logger, Namespace):
            if locate(logger.class_path) not in (TensorBoardLogger, CSVLogger):
                return [Path(folder) for folder in own] or None
            save_dir, name, version = (logger.init_args.get(key) for key in ("save_dir", "name", "version"))
        version = f"version_{version}" if isinstance(version, int) else version or "*"
        places = [os.path.expanduser(os.path.join(save_dir, name or "", version))]
    folders = [*own, *(os.path.join(place, "checkpoints") for place in places)]
    if any(map(is_remote, folders)):
        return None
    found: list[Path] = []
    for folder in map(Path, folders):
        # Without a version yet the pattern itself tells where there is none.
        found += sorted(folder.parent.parent.glob(f"{folder.parent.name}/checkpoints")) or [folder]
    return found


def config_of_run(config: Namespace) -> Path | None:
    """Return the last of the configurations given that a run has saved beside its checkpoints; None without one."""
    given = [Path(str(each)).expanduser().absolute() for each in config.get("config") or []]
    return next((file for file in reversed(given) if _is_saved(file) and (file.parent / "checkpoints").is_dir()), None)


def _beside_config(config: Namespace, subcommand: str) -> Path | None:
    """Return the checkpoints beside the configuration of a run; None without one."""
    file = config_of_run(config)
    if file is None:
        return None
    folder, several = file.parent / "checkpoints", configs_in(file.parent)
    if several and not (subcommand == "fit" and _is_one_run(folder)):
        raise MisconfigurationException(f"ckpt_path: last: {several}; give the path of a checkpoint")
    return folder


def _is_saved(config: Path) -> bool:
    """Return whether a run has saved a configuration; a user may write one beside a folder `checkpoints`, too."""
    with contextlib.suppress(OSError), config.open(encoding="utf-8", errors="replace") as lines:
        return config.match("config*.yaml") and lines.readline().startswith("# lightning.pytorch==")
    return False


def _is_one_run(folder: Path) -> bool:
    """Return whether all configurations beside a folder but the first are of fits that went on from it."""
    configs = [file for file in folder.parent.glob("config*.yaml") if _is_saved(file)]
    return _went_on_from(folder).count(folder.resolve()) >= len(configs) - 1


def _of_run(folder: Path, others: Sequence[Path]) -> list[Path]:
    """Return a run's folder of checkpoints and those of the runs that went on from it, by their configurations."""
    found = [folder.resolve()]
    for each in found:  # which grows meanwhile
        later = [other.resolve() for other in others if each in _went_on_from(other)]
        found += [other for other in later if other not in found]
    return found


def _went_on_from(folder: Path) -> list[Path]:
    """Return the folders of the checkpoints that the run of a folder went on from, as its configurations say."""
    paths = filter(None, map(start_of_run, folder.parent.glob("config*.yaml")))
    return [Path(path).parent.resolve() for path in paths]


def start_of_run(config: Path) -> str | None:
    """Return the checkpoint that a configuration which was saved names; None without one."""
    entry = _CKPT_PATH.search(config.read_text(encoding="utf-8", errors="replace"))
    return yaml.safe_load(entry[0])["ckpt_path"] if entry else None


def _changed(file: Path) -> int:
    """Return when a file was changed, in nanoseconds; 0 for a link to nothing."""
    return file.stat().st_mtime_ns if file.exists() else 0


def _shown(folder: Path) -> str:
    """Return a folder as it is shown: with a star in place of a version."""
    is_version = folder.name == "checkpoints" and folder.parent.name.startswith("version_")
    return os.path.relpath(folder.parent.parent / "*" / "checkpoints" if is_version else folder)


@rank_zero_only
def say(line: str) -> None:
    """Print a line on standard error, in the main process alone."""
    print(line, file=sys.stderr, flush=True)
