"""The checkpoint that `ckpt_path` names, and what it holds for the configuration."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch.plugins.environments import SLURMEnvironment
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from callbacks.checkpoints.checkpoint_reading import read_without_shards
from callbacks.files.file_systems import is_remote
from lightning_modules import ModelError, SequenceClassifier
from lightning_modules.checkpoints.checkpoint_check import check_entries, check_resumable
from lightning_modules.checkpoints.hyperparameter_check import check_kinds
from linetune.arguments import value_of
from linetune.config_files import configs_in, is_of_fit
from linetune.last_checkpoint import config_of_run, is_saved, last_checkpoint, start_of_run
from linetune.linked_values import DATA_TO_MODEL, FOUND_IN_DATA
from linetune.run_of_checkpoint import all_of_run, files_in, own_folders, run_of


def named_checkpoint(config: Namespace, subcommand: str, arguments: Sequence[str] = ()) -> str | None:
    """Return the path of the checkpoint; Lightning's own words where it has to find it, None without one.

    Args:
        config: The configuration of the subcommand.
        subcommand: The subcommand.
        arguments: The command line's.

    Raises:
        ModelError: if no checkpoint can be named so.
        MisconfigurationException: if the run has no best checkpoint or no last one.
    """
    path = config.get("ckpt_path")
    if path == "" or (path == "best" and subcommand == "fit"):
        raise ModelError(f"ckpt_path: {path!r} is not allowed; the path of a checkpoint, or last")
    if path is not None and subcommand != "fit" and value_of(arguments, "--ckpt_path") is None:
        _refuse_start_of_run(path, config)
    if path == "best":
        given = config_of_run(config) or next(reversed(config.get("config") or []), None)
        own = own_folders(config.get("trainer"))
        return str(best_of_run(None if given is None else str(given), own))
    path = last_checkpoint(config, subcommand) if path == "last" else path
    if path is None:
        _refuse_another_runs(config.trainer)
        return None
    return os.path.expanduser(path)  # a shell does not expand it behind "--ckpt_path="


def _refuse_start_of_run(path: str, config: Namespace) -> None:
    """Refuse the checkpoint that a fit went on from, where the fit's own result is to be evaluated or exported."""
    run = config_of_run(config)
    if run is not None and is_of_fit(run) and str(path) == start_of_run(run):
        raise ModelError(
            f"ckpt_path: {run} names the checkpoint that its run went on from, {path}; give --ckpt_path best, last or "
            "a file"
        )


def _refuse_another_runs(trainer: Namespace) -> None:
    """Refuse to run without a checkpoint where Lightning would take one that it has saved for a requeued job.

    Under SLURM it takes ``hpc_ckpt_N.ckpt`` of ``default_root_dir`` in place of the model, whatever run has left it
    there, and for each subcommand (lightning 2.6.6). ``SaveOnInterrupt`` writes no such file.
    """
    root = Path(trainer.get("default_root_dir") or os.getcwd())
    found = sorted(root.glob("hpc_ckpt_*.ckpt"))
    if found and SLURMEnvironment.detect():
        raise MisconfigurationException(
            f"ckpt_path: under SLURM Lightning would take the weights of {found[-1]}, which another run may have left; "
            "give --ckpt_path FILE, or move it away"
        )


def saved_values(path: str | None, subcommand: str) -> dict[str, dict[str, Any]]:
    """Return what a checkpoint holds for the sections ``model`` and ``data``; a part or nothing, as it may be.

    Args:
        path: What :func:`named_checkpoint` returned.
        subcommand: The subcommand; `fit` needs a checkpoint that a run can go on from.

    Raises:
        ModelError: if there is no such file, or `fit` cannot go on from it.
        MisconfigurationException: if it is not a whole checkpoint.
    """
    if not path or path in ("best", "last", "hpc", "registry") or is_remote(path):
        return {"model": {}, "data": {}}
    if not os.path.exists(path):
        raise ModelError(f"ckpt_path: {path} does not exist")
    checkpoint = read_without_shards(path)
    check_entries(checkpoint)
    if subcommand == "fit":
        check_resumable(checkpoint)
    # A module or a data module of the user's own may save none.
    model, data = (checkpoint.get(f"{name}hyper_parameters", {}) for name in ("", "datamodule_"))
    found = {name: model[name] for name in DATA_TO_MODEL if name in model}
    check_kinds(found, SequenceClassifier)
    return {
        "model": found,
        "data": {name: data[name] for name in FOUND_IN_DATA if data.get(name)},
    }


def with_checkpoint(message: str, path: str | None) -> str:
    """Return an error's message with the checkpoint's path in it, if it is about what a checkpoint holds.

    Args:
        message: The message.
        path: The checkpoint that the configuration names.
    """
    start = "ckpt_path: "
    if not path or not message.startswith(start) or str(path) in message:
        return message
    return f"{start}{path}: {message.removeprefix(start)}"


def best_of_run(config: str | None, own: Sequence[str] = ()) -> Path:
    """Return the best checkpoint of the run that has saved a configuration: one of its own, or of a run before.

    Args:
        config: The configuration. Another one, or none, stands for the only run that has written into `own`.
        own: Folders that ModelCheckpoints were given as `dirpath`, which several runs may share.

    Raises:
        MisconfigurationException: there is none, or nothing tells which one it is.
    """
    files = sorted(_existing_of_run(config, own), key=lambda file: file.stat().st_mtime)
    # The newest checkpoint knows the best one until then.
    states = read_without_shards(files[-1]).get("callbacks", {}).values()
    saved = [state for state in states if state.get("best_model_path")]
    monitored = [state for state in saved if state.get("monitor")]
    is_moved = not any(_is_folder(state.get("dirpath"), files[-1].parent) for state in states)
    newest_in = files[-1].parent if is_moved else None
    best = {found for state in monitored or saved if (found := _best_file(state, newest_in)) is not None}
    if len(best) == 1:
        return best.pop()
    if len(files) == 1 and not best:
        return files[0]
    names = ", ".join(file.name for file in files)
    raise MisconfigurationException(f"ckpt_path: best: {files[-1].parent} does not tell which is the best of {names}")


def _existing_of_run(config: str | None, own: Sequence[str]) -> list[Path]:
    """Return the checkpoints of the run of :func:`best_of_run`, one or more; a link to the last may lead to none."""
    shared = files_in(own)
    places, files, is_known = list(own), set[Path](), False
    if config is not None:
        file = Path(config).expanduser().absolute()
        if several := configs_in(file.parent):
            raise MisconfigurationException(f"ckpt_path: best: {several}; give the path of a checkpoint")
        places.insert(0, str(file.parent / "checkpoints"))
        files = all_of_run(file.parent, shared)
        is_known = bool(files) or is_saved(file)
    if not is_known and len(set(map(run_of, shared))) == 1:
        files = set(shared)
    if present := [file for file in files if file.exists()]:
        return present
    where, which = ", ".join(places), (" of this run" if is_known else " of one run alone") if shared else ""
    way_out = "the path of a checkpoint" if places else "the config.yaml of a run, or the path of a checkpoint"
    raise MisconfigurationException(
        f"ckpt_path: best: no checkpoints{which}{f' in {where}' if where else ''}; give {way_out}"
    )


def _is_folder(dirpath: str | None, folder: Path) -> bool:
    return dirpath is not None and Path(dirpath).expanduser().resolve() == folder.resolve()


def _best_file(state: dict[str, Any], newest_in: Path | None) -> Path | None:
    """Return the best checkpoint that a ModelCheckpoint knows; None if it is gone.

    That of a run that went on from another one may be in the folder of that one, and all folders may have been moved.

    Args:
        state: What a checkpoint holds of the ModelCheckpoint.
        newest_in: The folder of that checkpoint if it was moved; None if it is where it was written.
    """
    written = Path(state["best_model_path"])
    places = [written.expanduser()]
    if newest_in is not None:
        places.insert(0, newest_in / os.path.relpath(written, state.get("dirpath") or written.parent))
    return next((Path(os.path.abspath(file)) for file in places if file.exists()), None)
