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
from lightning_modules.checkpoints.checkpoint_check import check_entries, check_resumable
from linetune.config_files import configs_in
from linetune.run_of_checkpoint import all_of_run, files_in, of_run, own_folders, run_of

# The entry in a configuration that was saved, which may go over several lines.
_CKPT_PATH = re.compile(r"^ckpt_path: .*(?:\n .*)*", re.MULTILINE)


def last_checkpoint(config: Namespace, subcommand: str) -> str | None:
    """Return the newest whole checkpoint of an experiment, and say in a line which it is, or that there is none.

    Looked through are the folders that the trainer's ModelCheckpoint may write into: its own `dirpath`, and
    ``save_dir/name/*/checkpoints`` of the first logger, for every version there. With the configuration that a run
    saved, checkpoints of that run alone are looked at, and for `fit` those of the runs that went on from it.

    Args:
        config: The configuration of the subcommand.
        subcommand: The subcommand. For `fit` there need not be a checkpoint.

    Returns:
        The path; None for a fit that starts from the beginning; ``last`` where Lightning has to find it, with a logger
        whose folders are not known here.

    Raises:
        MisconfigurationException: there is no checkpoint, and the subcommand needs one.
    """
    run = config_of_run(config)
    if run is None:
        found = checkpoint_folders(config.trainer)
        if found is None:
            return "last"
        files = files_in(found)
    else:
        found, files = _of_run(run.parent, config.get("trainer"), subcommand)
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
            check_entries(checkpoint)
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
    own = own_folders(trainer)
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
    """Return the last of the configurations given that a run has saved, if it has checkpoints; None without one.

    They are in `checkpoints` beside the configuration, or name it from the folder of a ModelCheckpoint.

    Args:
        config: The configuration of the subcommand.
    """
    given = [Path(str(each)).expanduser().absolute() for each in config.get("config") or []]
    for file in filter(is_saved, reversed(given)):
        if (file.parent / "checkpoints").is_dir() or of_run(file.parent, files_in(own_folders(config.get("trainer")))):
            return file
    return None


def is_saved(config: Path) -> bool:
    """Return whether a run has saved a configuration; a user may write one beside a folder `checkpoints`, too."""
    with contextlib.suppress(OSError), config.open(encoding="utf-8", errors="replace") as lines:
        return config.match("config*.yaml") and lines.readline().startswith("# lightning.pytorch==")
    return False


def _of_run(run: Path, trainer: Namespace | None, subcommand: str) -> tuple[list[Path], list[Path]]:
    """Return the folders of a run's checkpoints and the checkpoints; for `fit` also of runs that went on from it.

    Args:
        run: The run's folder.
        trainer: The trainer's part of the configuration.
        subcommand: The subcommand.

    Raises:
        MisconfigurationException: several runs share the folder.
    """
    several = configs_in(run)
    if several and not (subcommand == "fit" and _is_one_run(run)):
        raise MisconfigurationException(f"ckpt_path: last: {several}; give the path of a checkpoint")
    shared, runs = files_in(own_folders(trainer)), [run.resolve()]
    if subcommand == "fit":
        others = [folder.parent.resolve() for folder in checkpoint_folders(trainer) or []] if trainer else []
        others = sorted({*others, *map(run_of, shared)})
        for each in runs:  # which grows meanwhile
            runs += [other for other in others if other not in runs and each in _went_on_from(other)]
    files = {file for each in runs for file in all_of_run(each, shared)}
    return sorted({*(each / "checkpoints" for each in runs), *(file.parent for file in files)}), sorted(files)


def _is_one_run(run: Path) -> bool:
    """Return whether all configurations in a folder but the first are of fits that went on from it."""
    configs = [file for file in run.glob("config*.yaml") if is_saved(file)]
    return _went_on_from(run).count(run.resolve()) >= len(configs) - 1


def _went_on_from(run: Path) -> list[Path]:
    """Return the folders of the runs of whose checkpoints a run, by its configurations, went on."""
    return [run_of(Path(path)) for path in map(start_of_run, run.glob("config*.yaml")) if path]


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
