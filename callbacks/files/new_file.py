"""A file that appears whole or not at all, a name for it, and the folder that it is written into."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import TextIO

from lightning.fabric.utilities.cloud_io import get_filesystem
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from callbacks.files.file_systems import exists, is_remote, make_folder


@contextmanager
def new_file(path: str | Path) -> Iterator[TextIO]:
    """Give a text file to write, which is ``path`` at the end, unless an error came up.

    Args:
        path: The file, in a folder that exists; replaced if it exists.

    Raises:
        OSError: if it cannot be written, as on a full disk; nothing of it is left, and the error names it.
    """
    if is_remote(path):
        text = io.StringIO(newline="")
        yield text
        with get_filesystem(path).open(str(path), "w", encoding="utf-8", newline="") as stream:
            stream.write(text.getvalue())
        return
    path = Path(path)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with unfinished.open("w", encoding="utf-8", newline="") as stream:
            yield stream
        unfinished.replace(path)
    except OSError as error:
        if error.filename not in (None, str(unfinished)):
            raise
        raise OSError(error.errno, f"{error.strerror or error}; nothing of the file is left", str(path)) from error
    finally:
        unfinished.unlink(missing_ok=True)


def make_writable(folder: str, writer: str) -> None:
    """Make a folder unless it exists, and check that files can be written there, before there is anything to write.

    Args:
        folder: The folder.
        writer: Who is to write, as the error begins.

    Raises:
        MisconfigurationException: The folder cannot be made or written.
    """
    try:
        make_folder(folder)
    except OSError as error:
        raise MisconfigurationException(f"{writer} cannot make {folder}: {error.strerror}") from error
    if not is_remote(folder) and not os.access(folder, os.W_OK):
        raise MisconfigurationException(f"{writer} cannot write to {folder}: Permission denied")


def numbered_names(path: str) -> Iterator[str]:
    """Yield a path, and then without end those with ``-v1``, ``-v2``, … behind its stem, as ModelCheckpoint counts."""
    yield path
    stem, suffix = os.path.splitext(path)
    for version in count(1):
        yield f"{stem}-v{version}{suffix}"


def free_name(path: str) -> str:
    """Return the first of the numbered names of a path that does not exist."""
    return next(name for name in numbered_names(path) if not exists(name))
