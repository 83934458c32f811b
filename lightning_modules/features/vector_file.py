"""A file of vectors by row number, each with a checksum of its example and its numbers."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from lightning_modules.errors import ModelError


class VectorFile:
    """A file of vectors by row number, which grows as rows are written.

    Each row has a checksum of its example and of the vector's bytes: one that is damaged, or that another process is
    just writing, counts as missing. Rows are read and written as bytes: where a mapping of the file into memory meets a
    full disk or a file that was cut short, the system ends the process (SIGBUS).
    """

    def __init__(self, path: Path, size: int) -> None:
        self._path = path
        self._dtype = np.dtype([("checksum", "<i8"), ("vector", "<f4", (size,))])

    def read(self, rows: np.ndarray, checksums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Read rows.

        Args:
            rows: Their numbers.
            checksums: Those of their examples.

        Returns:
            The vectors, and the places in ``rows`` of those that are missing or belong to another example.

        Raises:
            ModelError: if the file cannot be read.
        """
        records = np.zeros(len(rows), self._dtype)
        parts, size = records.view(np.uint8).data.cast("B"), self._dtype.itemsize
        try:
            with open(self._path, "rb", buffering=0) as file:
                for place, row in enumerate(rows.tolist()):
                    file.seek(row * size)
                    file.readinto(parts[place * size : (place + 1) * size])  # nothing behind the file's end
        except FileNotFoundError:
            pass
        except OSError as error:
            raise self._error("read", error) from error
        vectors = np.ascontiguousarray(records["vector"])
        return vectors, np.flatnonzero(records["checksum"] != _checksums_of_rows(checksums, vectors))

    def write(self, rows: np.ndarray, checksums: np.ndarray, vectors: np.ndarray) -> None:
        """Write rows; processes may write at the same time.

        Raises:
            ModelError: if the file cannot be written.
        """
        records = np.empty(len(rows), self._dtype)
        records["vector"] = vectors
        records["checksum"] = _checksums_of_rows(checksums, records["vector"])
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with open(self._path, "r+b", opener=_open_or_make) as file:
                for row, record in zip(rows.tolist(), records, strict=True):
                    file.seek(row * self._dtype.itemsize)  # rows between that are not written take no space
                    file.write(record.tobytes())
        except OSError as error:
            raise self._error("written", error) from error

    def _error(self, done: str, error: OSError) -> ModelError:
        return ModelError(f"cache_features: {self._path} cannot be {done}: {error.strerror or error}")


def _open_or_make(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CREAT, 0o666)


def _checksums_of_rows(checksums: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Return the checksums of examples, each joined with the sum of its vector's words times odd random numbers."""
    words = np.ascontiguousarray(vectors).view("<u4").astype(np.uint64)
    factors = np.random.default_rng(0).integers(0, 1 << 63, vectors.shape[1], np.uint64) * 2 + 1
    # Integers wrap around, as they are meant to. Zero stands for a row that has not been written.
    return (checksums ^ (words * factors).sum(axis=1, dtype=np.uint64).view(np.int64)) | 1
