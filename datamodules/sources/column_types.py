"""The types of the columns of files, found from their parts; columns that have no one type are kept as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import datasets
import pyarrow as pa

from datamodules.errors import DataError

# Of columns that are kept as JSON: neither texts nor labels are bytes.
JSON = pa.binary()


class ColumnTypes:
    """The type of each column, in their order, widened by each part of the rows that is added.

    Attributes:
        types: The types; :data:`JSON` for a column that no type fits.
        no_type: Why no type fits a column, in one line with its place, for those of which that is so.
    """

    def __init__(self) -> None:
        self.types: dict[str, pa.DataType] = {}
        self.no_type: dict[str, str] = {}

    def add(self, name: str, kind: pa.DataType, place: str) -> None:
        """Add the type that a column has in some rows.

        Args:
            name: The column.
            kind: Its type there.
            place: Where that is, for the line about a column that has another type elsewhere.
        """
        if name in self.no_type:
            return
        known = self.types.setdefault(name, pa.null())
        if kind == known:
            return
        try:
            self.types[name] = _widened(known, kind)
        except pa.ArrowException:
            self.give_up(name, f"{place}: the column {name!r} holds {kind}, and {known} before")
            return
        if not _is_storable(self.types[name]):
            self.give_up(name, f"{place}: the column {name!r} holds {kind}")

    def take_over(self, name: str, others: ColumnTypes) -> None:
        """Note that no type fits a column, as others have found."""
        self.types[name] = JSON
        self.no_type.setdefault(name, others.no_type[name])

    def give_up(self, name: str, why: str) -> None:
        """Note that no type fits a column."""
        self.types[name] = JSON
        self.no_type.setdefault(name, f"{why}; a column that is used has texts, numbers or lists of one kind")


def json_cells(cells: Sequence[Any], name: str, place: str, numbers: Sequence[int]) -> pa.Array:
    """Return the cells of a column as JSON in UTF-8; gaps stay gaps.

    Args:
        cells: Values as Python has them.
        name: The column, for messages.
        place: Where the cells are but for their numbers, as ``rows.csv, row``, for messages.
        numbers: Numbers of the cells.

    Raises:
        DataError: A text cannot be encoded.
    """
    written = []
    for cell, number in zip(cells, numbers, strict=True):
        try:
            written.append(None if cell is None else json.dumps(cell, ensure_ascii=False, default=str).encode())
        except UnicodeEncodeError:
            raise DataError(f"{place} {number}: the column {name!r} holds a text that is no Unicode text") from None
    return pa.array(written, JSON)


def _widened(first: pa.DataType, second: pa.DataType) -> pa.DataType:
    schemas = [pa.schema([("", kind)]) for kind in (first, second)]
    return pa.unify_schemas(schemas, promote_options="permissive").field(0).type


def _is_storable(kind: pa.DataType) -> bool:
    """Return whether `datasets`, which holds the rows that predictions stand beside, has this type."""
    try:
        datasets.Features.from_arrow_schema(pa.schema([("", kind)]))
    except (ValueError, NotImplementedError, RecursionError):  # of lists that are nested very deep
        return False
    return True
