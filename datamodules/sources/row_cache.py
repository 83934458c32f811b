"""Rows in files of a cache, which appear whole or not at all, and are checked when they are opened."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import datasets
import pyarrow as pa

from datamodules.errors import DataError

# Ends a file of rows, with a checksum of all before it behind it; a reader of Arrow's streams stops before.
_END_MARK = b"linetune-crc32:"
_SECONDS_PER_DAY = 86_400


def default_cache_dir() -> Path:
    """Return the default folder of tokenized data: beside the data that `datasets` caches."""
    return Path(datasets.config.HF_DATASETS_CACHE) / "linetune"


def stored(
    cache_dir: Path, key: dict[str, Any], batches: Callable[[], Iterable[pa.Table | pa.RecordBatch]]
) -> datasets.Dataset:
    """Return rows from the file of an earlier run, or write that file first; rows are memory-mapped.

    Args:
        cache_dir: The folder of the files.
        key: Everything that the rows depend on, in JSON types.
        batches: Returns the rows, at least one batch; called only if there is no file yet.

    Raises:
        DataError: The file cannot be written.
    """
    file = file_of(cache_dir, key, ".arrow")
    if _is_whole(file):  # one that is not is written again
        with contextlib.suppress(Exception):
            return datasets.Dataset.from_file(str(file))
    with new_file(file) as stream:
        writer = None
        for batch in batches():
            writer = writer or pa.ipc.new_stream(stream, batch.schema)
            writer.write(batch)
        assert writer is not None
        writer.close()
        stream.flush()
        unfinished = Path(stream.name)
        stream.write(_END_MARK + b"%08x" % _checksum(unfinished, unfinished.stat().st_size))
    return datasets.Dataset.from_file(str(file))


def file_of(cache_dir: Path, key: dict[str, Any], suffix: str) -> Path:
    """Return the file of the cache for everything that its content depends on, in JSON types."""
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]
    return cache_dir / f"{digest}{suffix}"


@contextmanager
def new_file(file: Path) -> Iterator[IO[bytes]]:
    """Give a file of the cache to write, which gets its name at the end, unless an error came up.

    Parallel runs and killed runs do no harm: at worst the same file is written twice.

    Args:
        file: The file; folders are made, and a file of this name is replaced.

    Raises:
        DataError: The file cannot be written.
    """
    folder, unfinished = file.parent, None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob("*.unfinished"):  # by processes that were killed
            with contextlib.suppress(OSError):
                if time.time() - left.stat().st_mtime > _SECONDS_PER_DAY:
                    left.unlink()
        with tempfile.NamedTemporaryFile(dir=folder, prefix=file.stem, suffix=".unfinished", delete=False) as stream:
            unfinished = Path(stream.name)
            yield stream
        # As any new file: a temporary one can be read by its owner alone.
        mask = os.umask(0)
        os.umask(mask)
        unfinished.chmod(0o666 & ~mask)
        unfinished.replace(file)
    except OSError as error:
        raise DataError(f"cannot write to cache_dir {folder}: {error.strerror or error}") from error
    finally:
        if unfinished is not None:
            unfinished.unlink(missing_ok=True)


def _is_whole(file: Path) -> bool:
    """Return whether a file of rows is there and ends with the checksum of what it holds."""
    mark = len(_END_MARK) + 8
    try:
        size = file.stat().st_size - mark
        with file.open("rb") as stream:
            stream.seek(max(size, 0))
            return stream.read() == _END_MARK + b"%08x" % _checksum(file, size)
    except OSError:
        return False


def _checksum(file: Path, size: int) -> int:
    """Return the CRC-32 of the first `size` bytes of a file."""
    total, left = 0, size
    with file.open("rb") as stream:
        while left > 0 and (part := stream.read(min(left, 1 << 20))):
            total, left = zlib.crc32(part, total), left - len(part)
    return total
