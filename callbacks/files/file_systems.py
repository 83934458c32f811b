"""Files on local and remote file systems, by fsspec."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from lightning.fabric.utilities.cloud_io import get_filesystem


def is_remote(path: str | Path) -> bool:
    """Return whether a path names its file system, as ``s3://bucket/file`` does."""
    return "://" in str(path)


def exists(path: str) -> bool:
    """Return whether there is a file or folder at a path."""
    return bool(path) and bool(get_filesystem(path).exists(path))


def make_folder(folder: str) -> None:
    """Make a folder, and those around it, unless it exists."""
    get_filesystem(folder).makedirs(folder, exist_ok=True)


@contextmanager
def on_this_machine(path: str | Path) -> Iterator[Path]:
    """Give the path of a file, or for the length of the context that of a copy of a remote one.

    Raises:
        FileNotFoundError: if there is no such remote file.
    """
    if not is_remote(path):
        yield Path(path).expanduser()
        return
    with TemporaryDirectory() as folder:
        copy = Path(folder) / Path(path).name
        get_filesystem(path).get_file(str(path), str(copy))
        yield copy


def upload(folder: Path, to: str) -> None:
    """Copy a folder of this machine to a place where there is none."""
    get_filesystem(to).put(f"{folder}{os.sep}", to, recursive=True)
