"""Sharded checkpoints: folders that appear whole or not at all, and are read on one device as well.

``ModelParallelStrategy`` writes a folder with a file per rank, an index of them (``.metadata``) and, last, everything
that is no tensor (``meta.pt``).
"""

from __future__ import annotations

import io
import os
import pickle
import shutil
import socket
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.distributed.checkpoint import CheckpointException, DefaultLoadPlanner, FileSystemReader, load
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta, TensorStorageMetadata
from torch.distributed.checkpoint.planner import ReadItem

# Begins the names of files and folders that are being written; no pattern for checkpoints takes them for one.
UNFINISHED = ".unfinished-"
# Ends the name of the one before, while the new one takes its place.
REPLACED = "-replaced"
# What `.metadata` consists of (torch 2.13), beside numbers and texts; the paths are pathlib's of any Python version.
_IN_INDEX = {
    "torch.distributed.checkpoint.metadata": {
        "BytesStorageMetadata",
        "ChunkStorageMetadata",
        "Metadata",
        "MetadataIndex",
        "StorageMeta",
        "TensorProperties",
        "TensorStorageMetadata",
        "_MEM_FORMAT_ENCODING",
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.serialization": {"_get_layout"},
    "collections": {"OrderedDict"},
}


def unfinished_name() -> str:
    """Return the name under which this process writes a checkpoint until it is whole."""
    return f"{UNFINISHED}{socket.gethostname()}-{os.getpid()}"


def is_sharded(path: Path) -> bool:
    """Return whether a path is the folder of a sharded checkpoint."""
    return (path / "meta.pt").is_file() and (path / ".metadata").is_file()


def keep_folders_whole(strategy: ModelParallelStrategy) -> None:
    """Let a strategy write each checkpoint under another name first, and rename it when all ranks have finished.

    By itself it writes over the files of a checkpoint of the same name (lightning 2.6.6), so that a kill leaves a
    mixture of two. A fit that is to go on from a file of whole parameters is refused: dividing the optimizer's state
    among ranks fails in torch 2.13, with an error of its own for each kind of state.
    """
    write: Callable[..., None] = strategy.save_checkpoint
    load_folder: Callable[..., dict[str, Any]] = strategy.load_checkpoint

    def save_checkpoint(checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any = None) -> None:
        path, unfinished = strategy.broadcast((Path(filepath), Path(filepath).with_name(unfinished_name())))
        if strategy.is_global_zero:
            shutil.rmtree(unfinished, ignore_errors=True)  # of a checkpoint that this process could not write
        strategy.barrier()
        try:
            write(checkpoint, unfinished, storage_options)
        except CheckpointException as error:
            reasons = [each for each, _ in error.failures.values() if isinstance(each, OSError)]
            if not reasons:
                raise
            why = f"{reasons[0].strerror or reasons[0]}; this checkpoint is not saved, those before it are kept"
            raise OSError(reasons[0].errno, why, str(path)) from error
        strategy.barrier()
        if strategy.is_global_zero:
            _put_in_place(unfinished, path)
        strategy.barrier()

    def load_checkpoint(checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        if strategy.optimizers and Path(checkpoint_path).is_file():
            raise MisconfigurationException(
                f"ckpt_path: {checkpoint_path} is of a run whose parameters were not sharded: ModelParallelStrategy "
                "cannot go on from it; use the strategy of that run (one device or ddp), or start anew"
            )
        return load_folder(checkpoint_path, weights_only=weights_only)

    strategy.save_checkpoint = save_checkpoint  # type: ignore[method-assign]
    strategy.load_checkpoint = load_checkpoint  # type: ignore[method-assign]


def _put_in_place(unfinished: Path, path: Path) -> None:
    # A folder cannot be renamed onto another one that has files.
    replaced = unfinished.with_name(unfinished.name + REPLACED)
    if path.is_dir():
        path.replace(replaced)
    unfinished.replace(path)
    shutil.rmtree(replaced, ignore_errors=True)


def read_shards(folder: Path) -> dict[str, Any]:
    """Return the weights and the optimizers' states of a sharded checkpoint as Lightning writes them into one file.

    No class is loaded beyond those of the index and those that torch allows under ``weights_only=True``.

    Args:
        folder: The folder.

    Returns:
        ``state_dict`` and ``optimizer_states``, whose parameters are numbers as in every optimizer's own state.

    Raises:
        Exception: whatever torch raises for a folder that is not whole.
    """
    reader = _Reader(folder)
    metadata = reader.read_metadata()
    flat: dict[str, Any] = {
        name: torch.empty(entry.size, dtype=entry.properties.dtype)
        if isinstance(entry, TensorStorageMetadata)
        else io.BytesIO()
        for name, entry in metadata.state_dict_metadata.items()
    }
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")  # which no_dist says
        load(flat, storage_reader=reader, planner=_Planner(flatten_state_dict=False), no_dist=True)
    nested: dict[Any, Any] = {}
    for name, path in metadata.planner_data.items():
        place = nested
        for key in path[:-1]:
            place = place.setdefault(key, {})
        place[path[-1]] = flat[name]
    numbers = sorted(int(key.removeprefix("optimizer_")) for key in nested if key.startswith("optimizer_"))
    states = [_numbered(nested[f"optimizer_{number}"]) for number in numbers]
    return {"state_dict": nested["state_dict"], "optimizer_states": states}


def _numbered(state: dict[str, Any]) -> dict[str, Any]:
    """Return an optimizer's state by the numbers of parameters, in place of their names."""
    groups = [state["param_groups"][place] for place in sorted(state["param_groups"])]
    names = [name for group in groups for name in group["params"]]
    number_of = {name: number for number, name in enumerate(names)}
    by_number = [group | {"params": [number_of[name] for name in group["params"]]} for group in groups]
    moments = {number_of[name]: entries for name, entries in state.get("state", {}).items()}
    return {"state": moments, "param_groups": by_number}


class _Index(pickle.Unpickler):
    """Reads an index, and no class that is not part of one."""

    def find_class(self, module: str, name: str) -> Any:
        is_plain = module == "torch" and (name == "Size" or isinstance(getattr(torch, name, None), torch.dtype))
        is_path = module.split(".")[0] == "pathlib" and name in ("PosixPath", "PurePosixPath", "WindowsPath")
        if is_path:
            return lambda *parts: os.path.join("", *parts)  # of the machine that wrote it
        if not is_plain and name not in _IN_INDEX.get(module, ()):
            raise pickle.UnpicklingError(f"its index names {module}.{name}")
        return super().find_class(module, name)


class _Reader(FileSystemReader):
    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        with (Path(self.path) / ".metadata").open("rb") as stream:
            metadata = _Index(stream).load()
        if not isinstance(metadata, Metadata):
            raise pickle.UnpicklingError(f"its index is a {type(metadata).__name__}")
        metadata.storage_meta = metadata.storage_meta or StorageMeta()
        return metadata


class _Planner(DefaultLoadPlanner):
    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        self.original_state_dict[read_item.dest_index.fqn] = torch.load(value, weights_only=True)
