"""Tables of Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence


def row(cells: Iterable[object]) -> str:
    """Return a row of a table."""
    texts = (str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells)
    return f"| {' | '.join(texts)} |"


def head(columns: Sequence[object], numbers: bool = False) -> str:
    """Return the first two lines of a table.

    Args:
        columns: Names of its columns.
        numbers: Whether all columns but the first hold numbers, which stand on the right.
    """
    others = "---:" if numbers else "---"
    return f"{row(columns)}\n{row(['---', *[others] * (len(columns) - 1)])}"


def table(columns: Sequence[object], rows: Iterable[Iterable[object]], numbers: bool = False) -> str:
    """Return a table.

    Args:
        columns: Names of its columns.
        rows: The cells of each row.
        numbers: Whether all columns but the first hold numbers, which stand on the right.
    """
    return "\n".join([head(columns, numbers), *map(row, rows)])


def table_of(rows: Sequence[Mapping[str, str]]) -> str:
    """Return rows as a table whose columns are all their keys, in the order in which they occur."""
    columns = list(dict.fromkeys(column for each in rows for column in each))
    return table(columns, [[each.get(column, "") for column in columns] for each in rows])
