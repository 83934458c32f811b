"""Rows of the user's texts: the interface of their sources."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa

# Rows that are read at once, and about how many bytes of them: of books or web pages some hundreds are enough.
BATCH_ROWS, BATCH_BYTES = 10_000, 2**25


def rows_at_once(rows: int, size: int) -> int:
    """Return how many rows to read at once.

    Args:
        rows: The number of all rows.
        size: Their size in bytes.
    """
    return max(1, min(BATCH_ROWS, BATCH_BYTES * rows // max(size, 1)))


@dataclass(frozen=True)
class Part:
    """Some rows of a source, and where they stand.

    Args:
        table: The rows.
        place: Name of the file or data set, for messages.
        first_row: Number of the first row that was read with these in that place, from 1; a header is not counted.
        kept: Which of the rows that were read are in the table, counted from 0. Default: all.
    """

    table: pa.Table
    place: str
    first_row: int
    kept: np.ndarray | None = None

    def where(self, index: int) -> str:
        """Return the place of a row of the table, for a message."""
        return f"{self.place}, row {self.first_row + (index if self.kept is None else int(self.kept[index]))}"


class TextSource(Protocol):
    """Rows of a split, in order."""

    @property
    def place(self) -> str:
        """Name of the source, for messages."""
        ...

    @property
    def schema(self) -> pa.Schema:
        """Columns and their types; those of a CSV file are all texts."""
        ...

    @property
    def json_columns(self) -> dict[str, str]:
        """Columns that no one type fits, whose cells are JSON, and why, each in one line; neither texts nor labels."""
        ...

    @property
    def label_names(self) -> dict[str, list[str]]:
        """Names of the labels of the columns whose numbers have names."""
        ...

    def fingerprint(self) -> str:
        """Return a text that changes with the content."""
        ...

    def parts(self, columns: Sequence[str] | None = None) -> Iterator[Part]:
        """Read the rows in batches, with some of the columns or all."""
        ...
