"""Rows of the user's texts: the interface of their sources, and the choice of rows that have texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datamodules.errors import DataError
from datamodules.sources.arrow_columns import first_true, is_text

# Rows that are read at once.
BATCH_ROWS = 10_000


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


def with_texts(part: Part, columns: Sequence[str], drop_empty: bool) -> Part:
    """Return the rows that have texts.

    Args:
        part: Rows.
        columns: The text columns.
        drop_empty: Whether rows with an empty text are left out.

    Raises:
        DataError: A text is empty and rows are not to be left out, or a column holds no texts.
    """
    table = part.table
    empty = np.zeros(len(table), dtype=bool)
    for name in columns:
        cells = table[name]
        if not is_text(cells.type) and not pa.types.is_null(cells.type):
            raise DataError(f"{part.place}: the text column {name!r} holds {cells.type}, not texts")
        cells = cells.cast(pa.string())
        table = table.set_column(table.column_names.index(name), name, cells)
        blank = pc.fill_null(pc.equal(pc.utf8_trim_whitespace(cells), ""), True)
        if not drop_empty and (row := first_true(blank)) is not None:
            raise DataError(f"{part.where(row)}: the text in column {name!r} is empty; drop_empty leaves such rows out")
        empty |= blank.to_numpy()
    kept = np.flatnonzero(~empty)
    return Part(table.filter(pa.array(~empty)) if empty.any() else table, part.place, part.first_row, kept)


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
    def label_names(self) -> dict[str, list[str]]:
        """Names of the labels of the columns whose numbers have names."""
        ...

    def fingerprint(self) -> str:
        """Return a text that changes with the content."""
        ...

    def parts(self, columns: Sequence[str] | None = None) -> Iterator[Part]:
        """Read the rows in batches, with some of the columns or all."""
        ...
