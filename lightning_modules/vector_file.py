"""A memory-mapped file of vectors by row number, each with the checksum of its example."""

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
    """A file of vectors by row number, each with the checksum of its example; it grows as rows are written."""

    def __init__(self, path: Path, size: int) -> None:
        self._path = path
        self._dtype = np.dtype([("checksum", "<i8"), ("vector", "<f4", (size,))])
        self._rows = np.empty(0, self._dtype)

    def missing(self, rows: np.ndarray, checksums: np.ndarray) -> np.ndarray:
        """Return the places in ``rows`` of rows that are missing, or belong to another example."""
        self._map()
        there = rows < len(self._rows)
        there[there] = self._rows["checksum"][rows[there]] == checksums[there]
        return np.flatnonzero(~there)

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Return the rows' vectors."""
        return self._rows["vector"][rows]

    def write(self, rows: np.ndarray, checksums: np.ndarray, vectors: np.ndarray) -> None:
        """Write rows; processes may write at the same time."""
        self._map(at_least=int(rows.max()) + 1)
        # A row is valid once its checksum is there.
        self._rows["vector"][rows] = vectors
        self._rows["checksum"][rows] = checksums

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
