"""Checkpoint files that appear whole or not at all, and are checked when they are read."""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem
from lightning.fabric.plugins import CheckpointIO, TorchCheckpointIO
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import ModelParallelStrategy

from callbacks.checkpoints.checkpoint_reading import read_checkpoint
from callbacks.checkpoints.sharded_checkpoint import REPLACED, UNFINISHED, keep_folders_whole, unfinished_name

_SECONDS_PER_DAY = 86_400
# In it Lightning's launcher of forked processes hands the weights of rank 0 back when a run ends: a bare state_dict.
_HANDED_BACK = ".temp.ckpt"


class AtomicCheckpointIO(CheckpointIO):
    """Writes a checkpoint beside its place and renames it, so that a kill or a full disk leaves no torn file.

    Lightning's own plugin writes into the folder for temporary files and moves the file from there, which is a copy
    where that folder is on another file system (lightning 2.6.6, fsspec's transactions). Here the bytes are on the disk
    before the file gets its name. Reading is :func:`~callbacks.checkpoints.checkpoint_reading.read_checkpoint`. Paths
    on remote file systems are left to Lightning; strategies that shard a model write their folders themselves.

    The command line uses this plugin wherever Lightning would use its own; from Python it is an argument.

    Raises:
        OSError: if a checkpoint cannot be written; nothing is left of it, and those before it are as they were.
        MisconfigurationException: if a file is not a whole checkpoint.

    Example::

        Trainer(plugins=[AtomicCheckpointIO()])
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        local = _local(path)
        if local is None or storage_options is not None:
            TorchCheckpointIO().save_checkpoint(checkpoint, path, storage_options)
        else:
            _write(checkpoint, local)

    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Callable | None = lambda storage, location: storage,
        weights_only: bool | None = True,
    ) -> dict[str, Any]:
        local = _local(path)
        if local is None or local.name == _HANDED_BACK:
            return TorchCheckpointIO().load_checkpoint(path, map_location, weights_only=True)
        return read_checkpoint(local, map_location)

    def remove_checkpoint(self, path: str | Path) -> None:
        TorchCheckpointIO().remove_checkpoint(path)


def write_atomically(trainer: Trainer) -> None:
    """Let a trainer write whole checkpoints alone: by :class:`AtomicCheckpointIO` and, if sharded, by renamed folders.

    A plugin other than Lightning's own stays.
    """
    if isinstance(trainer.strategy, ModelParallelStrategy):
        keep_folders_whole(trainer.strategy)
    if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
        trainer.strategy.checkpoint_io = AtomicCheckpointIO()


def remove_leftovers(folder: Path) -> None:
    """Remove what processes that were killed while they wrote a checkpoint have left in a folder."""
    for file in folder.glob(f"{UNFINISHED}*"):
        host, _, process = file.name.removeprefix(UNFINISHED).removesuffix(REPLACED).rpartition("-")
        is_dead = host == socket.gethostname() and not _is_running(int(process))
        try:
            if is_dead or time.time() - file.stat().st_mtime > _SECONDS_PER_DAY:
                shutil.rmtree(file) if file.is_dir() else file.unlink()
        except OSError:  # removed by another process, or not ours to remove
            continue


def _write(checkpoint: dict[str, Any], path: Path) -> None:
    unfinished = path.with_name(unfinished_name())
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path.parent)
        with unfinished.open("wb") as stream:
            torch.save(checkpoint, stream)
            stream.flush()
            os.fsync(stream.fileno())
        unfinished.replace(path)
        if os.name == "posix":
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    except (OSError, RuntimeError) as error:
        # torch raises a RuntimeError of its own while the stream's OSError passes through it.
        reason = error if isinstance(error, OSError) else error.__context__
        if not isinstance(reason, OSError):
            raise
        why = reason.strerror or str(reason)
        text = f"{why}; this checkpoint is not saved, those before it are kept"
        raise OSError(reason.errno, text, str(path)) from error
    finally:
        unfinished.unlink(missing_ok=True)


def _local(path: str | Path) -> Path | None:
    """Return the path of a file on this machine; None for one that is elsewhere."""
    files, stripped = url_to_fs(str(path))
    return Path(stripped) if isinstance(files, LocalFileSystem) else None


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
