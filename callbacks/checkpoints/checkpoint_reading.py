"""Reading checkpoint files: whole ones alone, and never a class that a file names."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.distributed.checkpoint import CheckpointException

from callbacks.checkpoints.sharded_checkpoint import is_sharded, read_shards
from callbacks.files.file_systems import is_remote, on_this_machine

# Of every checkpoint that Lightning writes, whatever it was asked to leave out.
_ALWAYS_THERE = ("state_dict", "pytorch-lightning_version", "epoch", "global_step")
# What torch.load raises for the bytes of something else.
_NOT_READABLE = (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError)
# Key of the names of classes that a checkpoint holds and that were not read.
UNREAD_CLASSES = "unread_classes"
# Key of what `ModelExporter` adds to a checkpoint: what is known of the training by then, for the model card.
FACTS = "training_facts"


def read_checkpoint(path: str | Path, map_location: Any = "cpu", mmap: bool = False) -> dict[str, Any]:
    """Return a Lightning checkpoint, after comparing the checksum of each of its parts.

    No class is loaded beyond those that torch allows under ``weights_only=True``. What holds another one (an
    optimizer's state, say) is left out, and the classes' names are the entry ``unread_classes``.

    Args:
        path: The file, also on a remote file system, or the folder of a sharded checkpoint, which comes as one file's
            content would.
        map_location: Where tensors go, as `torch.load` takes it; for a folder the CPU.
        mmap: Whether tensors of a file are read when they are used.

    Raises:
        FileNotFoundError: if there is no such file.
        MisconfigurationException: if it is not a whole Lightning checkpoint; it says what is wrong.
    """
    if is_remote(path):
        with on_this_machine(path) as copy:
            return read_checkpoint(copy, map_location)
    path = Path(path).expanduser()
    if path.is_dir():
        return read_without_shards(path) | _shards(path)
    if not path.is_file():
        raise FileNotFoundError(f"Checkpoint file not found: {path}")
    reason = damage(path)
    if reason is not None:
        raise MisconfigurationException(f"ckpt_path: {path} {reason}")
    try:
        checkpoint = _load(path, map_location, mmap)
    except _NOT_READABLE as error:
        text = f"ckpt_path: {path} is not a checkpoint that torch can read without running code of it"
        raise MisconfigurationException(text) from error
    if not isinstance(checkpoint, dict):
        raise MisconfigurationException(f"ckpt_path: {path} holds a {type(checkpoint).__name__}, not a checkpoint")
    absent = [name for name in _ALWAYS_THERE if name not in checkpoint]
    if "state_dict" in absent and checkpoint and all(isinstance(each, torch.Tensor) for each in checkpoint.values()):
        raise MisconfigurationException(
            f"ckpt_path: {path} holds weights alone (a state_dict); a checkpoint of Trainer.fit is expected"
        )
    if absent:
        raise MisconfigurationException(f"ckpt_path: {path} is not a checkpoint of Lightning: it lacks {absent[0]}")
    return checkpoint


def read_without_shards(path: str | Path) -> dict[str, Any]:
    """Return a checkpoint without what is divided among the files of a sharded one: weights and optimizer state.

    Args:
        path: The file, whose tensors are read when they are used, or the folder of a sharded checkpoint.

    Raises:
        FileNotFoundError: if there is no such file.
        MisconfigurationException: if it is not a whole Lightning checkpoint.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        return read_checkpoint(path, mmap=True)
    if not is_sharded(folder):
        raise MisconfigurationException(f"ckpt_path: {folder} is a folder, and not that of a whole sharded checkpoint")
    try:
        return _load(folder / "meta.pt", "cpu", mmap=False)
    except (OSError, *_NOT_READABLE) as error:
        raise MisconfigurationException(f"ckpt_path: {folder} is damaged: meta.pt cannot be read") from error


def _shards(folder: Path) -> dict[str, Any]:
    try:
        return read_shards(folder)
    except (OSError, AssertionError, CheckpointException, *_NOT_READABLE) as error:
        text = f"ckpt_path: {folder} is damaged or not read without running code: {' '.join(str(error).split())[:300]}"
        raise MisconfigurationException(text) from error


def saved_step(path: str | Path) -> int | None:
    """Return the optimizer step of a checkpoint's weights; None if that cannot be read on this machine.

    Args:
        path: The file, or the folder of a sharded checkpoint.
    """
    step = saved_entry(path, "global_step")
    return None if step is None else int(step)


def saved_entry(path: str | Path, key: str) -> Any:
    """Return an entry of a checkpoint without comparing checksums; None if there is none or it cannot be read.

    Args:
        path: The file, or the folder of a sharded checkpoint.
        key: The entry, such as ``global_step``.
    """
    try:
        with on_this_machine(path) as file:
            return _load(file / "meta.pt" if file.is_dir() else file, "cpu", mmap=True)[key]
    except (OSError, *_NOT_READABLE):
        return None


def damage(path: Path) -> str | None:
    """Return what is wrong with the bytes of a checkpoint file, or None if its checksums are right.

    torch writes a zip archive with a checksum for each part, and does not compare them when it loads one.
    """
    with path.open("rb") as stream:
        start = stream.read(16)
    if not start.strip(b"\0"):
        return "is empty" if not start else "is damaged: it begins with zeros"
    if not zipfile.is_zipfile(path):
        if start.startswith(b"PK"):
            return "is not whole: its end is missing"
        if start[8:9] == b"{":
            return "is a safetensors file, weights alone; a checkpoint of Trainer.fit is expected"
        return "is not a checkpoint"
    if not torch.serialization.get_crc32_options():
        return None  # this process writes files without checksums
    try:
        with zipfile.ZipFile(path) as archive:
            part = archive.testzip()
    except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError, RuntimeError):
        return "is damaged: its table of contents is not that of its parts"
    return None if part is None else f"is damaged: the checksum of its part {part} is wrong"


def _load(path: Path, map_location: Any, mmap: bool) -> Any:
    options: dict[str, Any] = {"map_location": map_location, "mmap": mmap, "weights_only": True}
    names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    stand_ins: list[type] = [type(name, (_Unread,), {}) for name in names]
    allowed: list[Callable | tuple[Callable, str]] = list(zip(stand_ins, names, strict=True))
    with torch.serialization.safe_globals(allowed):
        checkpoint = torch.load(path, **options)
    if isinstance(checkpoint, dict) and names:
        checkpoint = {key: _without_unread(value) for key, value in checkpoint.items() if not _is_unread(key, value)}
        checkpoint[UNREAD_CLASSES] = sorted(names)
    return checkpoint


class _Unread:
    """Stands in for an object of a class that is not loaded: takes its arguments and state, and runs nothing."""

    def __new__(cls, *args: Any, **kwargs: Any) -> _Unread:
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def _is_unread(key: Any, value: Any) -> bool:
    """Return whether an entry is to be left out: all of the optimizers' states where one part cannot be read."""
    return key not in ("hyper_parameters", "datamodule_hyper_parameters") and _holds_unread(value)


def _holds_unread(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_holds_unread, (*value.keys(), *value.values())))
    if isinstance(value, list | tuple | set):
        return any(map(_holds_unread, value))
    return isinstance(value, _Unread) or (isinstance(value, type) and issubclass(value, _Unread))


def _without_unread(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {key: each for key, each in value.items() if not _holds_unread(each)} if _holds_unread(value) else value
