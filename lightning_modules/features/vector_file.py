"""A memory-mapped file of vectors by row number, each with a checksum of its example and its numbers."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from lightning_modules.errors import ModelError

try:
    import fcntl
except ImportError:  # Windows: processes that start at the same time are not kept apart there
    fcntl = None  # type: ignore[assignment]


class VectorFile:
    """A file of vectors by row number, which grows as rows are written.

    Each row has a checksum of its example and of the vector's bytes: one that is damaged, or that another process is
    just writing, counts as missing.
    """

    def __init__(self, path: Path, size: int) -> None:
        self._path = path
        self._dtype = np.dtype([("checksum", "<i8"), ("vector", "<f4", (size,))])
        self._rows = np.empty(0, self._dtype)

    def missing(self, rows: np.ndarray, checksums: np.ndarray) -> np.ndarray:
        """Return the places in ``rows`` of rows that are missing, or belong to another example."""
        self._map()
        there = rows < len(self._rows)
        found = self._rows[rows[there]]
        there[there] = found["checksum"] == _checksums_of_rows(checksums[there], found["vector"])
        return np.flatnonzero(~there)

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Return the rows' vectors."""
        return self._rows["vector"][rows]

    def write(self, rows: np.ndarray, checksums: np.ndarray, vectors: np.ndarray) -> None:
        """Write rows; processes may write at the same time."""
        self._map(at_least=int(rows.max()) + 1)
        self._rows["vector"][rows] = vectors
        self._rows["checksum"][rows] = _checksums_of_rows(checksums, np.asarray(vectors, "<f4"))

    def _map(self, at_least: int = 0) -> None:
        try:
            if at_least > len(self._rows):
                self._path.parent.mkdir(parents=True, exist_ok=True)
                with open(self._path, "ab") as file:
                    if fcntl is not None:
                        fcntl.flock(file, fcntl.LOCK_EX)
                    # Twice as long each time; what is not written takes no space.
                    size = max(at_least, 2 * len(self._rows), 1024) * self._dtype.itemsize
                    if os.fstat(file.fileno()).st_size < size:
                        os.truncate(file.fileno(), size)
            present = self._path.stat().st_size // self._dtype.itemsize if self._path.exists() else 0
            if present > len(self._rows):
                self._rows = np.memmap(self._path, self._dtype, mode="r+", shape=(present,))
        except OSError as error:
            raise ModelError(f"cache_features: {self._path} cannot be written: {error.strerror or error}") from error


def _checksums_of_rows(checksums: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Return the checksums of examples, each joined with the sum of its vector's words times odd random numbers."""
    words = np.ascontiguousarray(vectors).view("<u4").astype(np.uint64)
    factors = np.random.default_rng(0).integers(0, 1 << 63, vectors.shape[1], np.uint64) * 2 + 1
    # Integers wrap around, as they are meant to. Zero stands for a row that has not been written.
    return (checksums ^ (words * factors).sum(axis=1, dtype=np.uint64).view(np.int64)) | 1
