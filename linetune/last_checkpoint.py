"""The checkpoint that `--ckpt_path last` stands for: the newest whole one of an experiment."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from pydoc import locate
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.plugins.environments import SLURMEnvironment
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from callbacks.checkpoint_io import remove_leftovers
from callbacks.checkpoint_reading import read_checkpoint
from lightning_modules import ModelError
from lightning_modules.checkpoint_check import check_resumable
from linetune.config_files import configs_in


def last_checkpoint(config: Namespace, subcommand: str) -> str | None:
    """Return the newest whole checkpoint of an experiment, and say in a line which it is, or that there is none.

    Looked through are the folders that the trainer's ModelCheckpoint may write into: its own `dirpath`, and
    ``save_dir/name/*/checkpoints`` of the first logger, for every version there; under SLURM also what Lightning saves
    before a job is requeued. `validate`, `test` and `predict` with the configuration of a run look beside that.

    Args:
        config: The configuration of the subcommand.
        subcommand: The subcommand. For `fit` there need not be a checkpoint.

    Returns:
        The path; None for a fit that starts from the beginning; ``last`` where Lightning has to find it, with a logger
        whose folders are not known here.

    Raises:
        MisconfigurationException: there is no checkpoint, and the subcommand needs one.
    """
    folders = _beside_config(config) if subcommand != "fit" else []
    found = folders or checkpoint_folders(config.trainer)
    if found is None:
        return "last"
    files = [file for folder in found for file in (folder.glob("*.ckpt") if folder.is_dir() else [])]
    files += _saved_for_requeue(config.trainer)
    # A link to the newest file comes after the file itself.
    newest_first = sorted(files, key=lambda file: (-_changed(file), file.is_symlink()))
    for folder in found:
        remove_leftovers(folder)
    for file in newest_first:
        try:
            # Of a folder of shards, the file with the rest is written last.
            checkpoint = {} if (file / "meta.pt").is_file() else read_checkpoint(file, mmap=True)
            if checkpoint and subcommand == "fit":
                check_resumable(checkpoint)
        except (OSError, MisconfigurationException, ModelError) as error:
            reason = str(error).removeprefix("ckpt_path: ").removeprefix(f"{file} ")
            _say(f"ckpt_path last: skipped {os.path.relpath(file)}: {reason}")
            continue
        _say(f"ckpt_path last: {os.path.relpath(file)} ({len(files)} found)")
        return str(file)
    where = ", ".join(sorted({_shown(folder) for folder in found})) or "any run's folder"
    if subcommand != "fit":
        raise MisconfigurationException(f"ckpt_path: last: there is no whole checkpoint in {where}")
    _say(f"ckpt_path last: there is no whole checkpoint in {where}: THE RUN STARTS FROM THE BEGINNING")
    return None


def checkpoint_folders(trainer: Namespace) -> list[Path] | None:
    """Return the folders that runs of a trainer's configuration write checkpoints into; None if that is not known.

    Args:
        trainer: The trainer's part of a configuration.
    """
    root = trainer.get("default_root_dir") or os.getcwd()
    callbacks = [each for each in trainer.get("callbacks") or [] if isinstance(each, Namespace)]
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
    if any("://" in str(folder) for folder in folders):
        return None
    found: list[Path] = []
    for folder in map(Path, folders):
        # Without a version yet the pattern itself tells where there is none.
        found += sorted(folder.parent.parent.glob(f"{folder.parent.name}/checkpoints")) or [folder]
    return found


def _beside_config(config: Namespace) -> list[Path]:
    configs = config.get("config") or []
    folder = Path(str(configs[-1])).expanduser().absolute().parent / "checkpoints" if configs else None
    if folder is not None and folder.is_dir() and (several := configs_in(folder.parent)):
        raise MisconfigurationException(f"ckpt_path: last: {several}; give the path of a checkpoint")
    return [folder] if folder is not None and folder.is_dir() else []


def _saved_for_requeue(trainer: Namespace) -> list[Path]:
    root = Path(trainer.get("default_root_dir") or os.getcwd())
    return sorted(root.glob("hpc_ckpt_*.ckpt")) if SLURMEnvironment.detect() else []


def _changed(file: Path) -> int:
    """Return when a file was changed, in nanoseconds; 0 for a link to nothing."""
    return file.stat().st_mtime_ns if file.exists() else 0


def _shown(folder: Path) -> str:
    """Return a folder as it is shown: with a star in place of a version."""
    is_version = folder.name == "checkpoints" and folder.parent.name.startswith("version_")
    return os.path.relpath(folder.parent.parent / "*" / "checkpoints" if is_version else folder)


@rank_zero_only
def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
