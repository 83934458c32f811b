"""JSON lines, read in batches by Python's parser: texts that look like dates stay texts."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from datamodules.errors import DataError, first_line
from datamodules.sources.arrow_columns import innermost, is_list
from datamodules.sources.column_types import ColumnTypes, json_cells
from datamodules.sources.text_source import BATCH_BYTES, BATCH_ROWS

KINDS = {str: "a text", bool: "true or false", int: "a number", float: "a number", list: "a list", dict: "an object"}
# Of larger integers some are no float64.
EXACT_IN_FLOATS = 2**53


def json_column_types(file: Path) -> ColumnTypes:
    """Return the types of the columns of a file, all of which is read.

    Args:
        file: The file.

    Raises:
        DataError: It cannot be read, or a line is no object.
    """
    found = _JsonColumnTypes(file)
    for rows, lines in _batches(file):
        for name in dict.fromkeys(name for row in rows for name in row):
            if name not in found.no_type:
                found.add_cells(name, [row.get(name) for row in rows], lines)
    return found


def json_tables(file: Path, names: Sequence[str], as_json: Collection[str]) -> Iterator[pa.Table]:
    """Read some columns of a file; rows that lack one have a gap there.

    Args:
        file: The file.
        names: The columns.
        as_json: Those of them that are kept as JSON.

    Raises:
        DataError: It cannot be read.
    """
    for rows, lines in _batches(file):
        columns = {}
        for name in names:
            cells = [row.get(name) for row in rows]
            if name in as_json:
                columns[name] = json_cells(cells, name, f"{file}, line", lines)
                continue
            try:
                columns[name] = pa.array(cells)
            except (pa.ArrowException, UnicodeEncodeError, OverflowError) as error:
                raise DataError(_unreadable(file, name, lines, error)) from error
        yield pa.table(columns)


def _batches(file: Path) -> Iterator[tuple[list[dict], list[int]]]:
    """Yield rows and the numbers of their lines, in lists that are emptied for the next ones."""
    try:
        with file.open("rb") as stream:
            rows: list[dict] = []
            lines: list[int] = []
            size = 0
            for number, line in enumerate(stream, 1):
                line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
                if not line.strip():
                    continue
                rows.append(_object(line, f"{file}, line {number}"))
                lines.append(number)
                size += len(line)
                if len(rows) == BATCH_ROWS or size > BATCH_BYTES:
                    yield rows, lines
                    rows.clear()  # which the reader still holds
                    lines.clear()
                    size = 0
            if rows:
                yield rows, lines
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror}") from error


def _object(line: bytes, where: str) -> dict:
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError:
        raise DataError(f"{where}: not UTF-8 text") from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits is no JSONDecodeError
        raise DataError(f"{where}: not JSON ({first_line(error)}); each line must be an object") from None
    if not isinstance(row, dict):
        raise DataError(
            f"{where}: a JSON {type(row).__name__}; each line must be an object, as pandas writes with "
            'to_json(orient="records", lines=True)'
        )
    return row


class _JsonColumnTypes(ColumnTypes):
    """The types of the columns of a file, from cells as Python's parser returns them."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self._file = file
        self._first_kinds: dict[str, tuple[str, int]] = {}  # with their lines
        self._large: dict[str, str] = {}  # where integers are that are no float

    def add_cells(self, name: str, cells: Sequence[Any], lines: Sequence[int]) -> None:
        """Add some cells of a column that has one type so far, and the lines that they are in."""
        if name not in self.types and not _is_unicode(name):
            raise DataError(f"{self._file}: the name of the column {name!r} is no Unicode text")
        array, why = self._array(name, cells, lines)
        if array is None:
            self.give_up(name, why)
            return
        place = f"{self._file}, lines {lines[0]} to {lines[-1]}"
        values = array
        while is_list(values.type):
            values = values.flatten()
        if pa.types.is_struct(values.type):
            self.give_up(name, f"{place}: the column {name!r} holds lists of objects")
            return
        self.add(name, array.type, place)
        if pa.types.is_integer(values.type):
            least, greatest = (value.as_py() or 0 for value in pc.min_max(values).values())
            if max(-least, greatest) > EXACT_IN_FLOATS:
                self._large.setdefault(name, place)
        if name in self._large and pa.types.is_floating(innermost(self.types[name])):
            self.give_up(name, f"{self._large[name]}: the column {name!r} holds integers beyond 2**53, and fractions")

    def _array(self, name: str, cells: Sequence[Any], lines: Sequence[int]) -> tuple[pa.Array | None, str]:
        """Return cells of one kind, or None and why there is no array of them.

        Arrow would take true for 1 among fractions, and fill up objects with the keys of the others.
        """
        first = next((index for index, cell in enumerate(cells) if cell is not None), None)
        if first is None:
            return pa.nulls(len(cells)), ""
        kind = KINDS[type(cells[first])]
        known, line = self._first_kinds.setdefault(name, (kind, lines[first]))
        why = f"{self._file}, line {line}: the column {name!r} holds {known}"
        if kind == known != "an object":
            try:
                array = pa.array(cells)
            except (pa.ArrowException, UnicodeEncodeError, OverflowError) as error:
                why = _unreadable(self._file, name, lines, error)
            else:
                if not pa.types.is_floating(array.type) or bool not in set(map(type, cells)):
                    return array, ""
        for cell, at in zip(cells, lines, strict=True):
            kind = known if cell is None else KINDS[type(cell)]
            if kind != known:
                why = f"{self._file}, line {at}: the column {name!r} holds {kind}, and {known} in line {line}"
                break
        return None, why


def _unreadable(file: Path, name: str, lines: Sequence[int], error: Exception) -> str:
    return f"{file}, lines {lines[0]} to {lines[-1]}: the column {name!r} cannot be read ({first_line(error)})"


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
