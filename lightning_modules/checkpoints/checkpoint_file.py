"""Refusing a file that is not a whole checkpoint, where no plugin of a trainer reads it."""

from __future__ import annotations

import os
import re
import zipfile
from typing import Any

import torch

from lightning_modules.checkpoints.checkpoint_check import check_entries
from lightning_modules.errors import ModelError, first_line


def check_file(path: Any, is_trusted: bool) -> dict[str, Any]:
    """Compare the checksums of a checkpoint file, which torch does not, and check that it is one of Lightning.

    Args:
        path: The file. A stream, and the path of another machine, are not looked at.
        is_trusted: Whether classes that the file names are to be loaded (``weights_only=False``); what it holds is then
            not looked at.

    Returns:
        What it holds, tensors being read when they are used; nothing of what is not looked at.

    Raises:
        FileNotFoundError: if there is no such file.
        ModelError: if it is not a whole checkpoint; one line that names it and says what is wrong.
    """
    if not isinstance(path, str | os.PathLike) or "://" in str(path):
        return {}
    if not os.path.exists(path):
        raise FileNotFoundError(f"Checkpoint file not found: {path}")
    try:
        with zipfile.ZipFile(path) as archive:
            part = archive.testzip()
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, NotImplementedError, RuntimeError) as error:
        raise ModelError(f"{path} is not a whole checkpoint: {str(error) or type(error).__name__}") from error
    if part is not None and torch.serialization.get_crc32_options():  # else files are written without checksums
        raise ModelError(f"{path} is damaged: the checksum of its part {part} is wrong")
    if is_trusted:
        return {}
    try:
        found = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except Exception as error:  # of many kinds, by what the bytes are
        raise ModelError(
            f"{path} is not a checkpoint that torch reads with weights_only=True: {_reason(error)}"
        ) from error
    if not isinstance(found, dict) or not {"state_dict", "pytorch-lightning_version"} <= found.keys():
        raise ModelError(f"{path} is not a checkpoint of Lightning: state_dict or pytorch-lightning_version is absent")
    check_entries(found)
    return found


def _reason(error: Exception) -> str:
    """Return what torch refuses; a class by its name, which stands within several lines of advice."""
    if refused := re.search(r"GLOBAL (\S+) was not an allowed global", str(error)):
        return f"it holds {refused[1]}; weights_only=False loads it from a file that you trust"
    return first_line(error)
