"""The cells of a label column, of whatever type: which are missing, and the names that they stand for."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from datamodules.errors import DataError
from datamodules.sources.arrow_columns import is_text
from datamodules.sources.invisible_characters import is_blank
from datamodules.sources.text_source import Part

# Rows that a message names.
PLACES_SHOWN = 5


def missing_labels(cells: pa.Array, names_of_numbers: Sequence[str] | None = None) -> pa.Array:
    """Return which cells have no label: gaps, NaN, empty texts, and -1 where the numbers have names.

    Args:
        cells: Labels.
        names_of_numbers: Names of the numbers, if the data set names them.
    """
    missing = pc.is_null(cells, nan_is_null=True)
    if pa.types.is_null(cells.type):
        return missing
    if is_text(cells.type):
        missing = pc.or_(missing, is_blank(cells.cast(pa.string())))
    if names_of_numbers is not None and pa.types.is_integer(cells.type):
        missing = pc.or_(missing, pc.fill_null(pc.less(cells, 0), True))
    return missing


def missing_labels_error(places: Sequence[str], count: int, column: str) -> DataError:
    """Return the error about rows without a label.

    Args:
        places: The first of these rows.
        count: How many there are.
        column: The label column.
    """
    first = (
        places[0] + "".join(f", {place.rpartition(' ')[2]}" for place in places[1:]) + ", ..." * (count > len(places))
    )
    others = f" ({count} rows)" if count > 1 else ""
    return DataError(
        f"{first}: the label in column {column!r} is missing{others}; write one, or drop_empty leaves such rows out"
    )


def named_scores_error(column: str, names: Sequence[str]) -> DataError:
    """Return the error about scores that stand for names.

    Args:
        column: The label column.
        names: Names of the numbers in it.
    """
    return DataError(
        f"problem_type=regression: the numbers in the label column {column!r} stand for names, as {names[0]!r}; scores "
        "are a column of numbers without names"
    )


def label_texts(cells: pa.Array, names_of_numbers: Sequence[str] | None, part: Part, column: str) -> pa.Array:
    """Return labels as their names: texts as they are, whole numbers without a point.

    Args:
        cells: Labels.
        names_of_numbers: Names of the numbers, if the data set names them.
        part: The rows that the labels are of, for the message.
        column: Their column, for the message.

    Raises:
        DataError: They are neither texts nor numbers.
    """
    if names_of_numbers is not None and pa.types.is_integer(cells.type):
        known = pc.if_else(pc.and_(pc.greater_equal(cells, 0), pc.less(cells, len(names_of_numbers))), cells, None)
        return pc.take(pa.array(names_of_numbers, pa.string()), known)
    if is_text(cells.type) or pa.types.is_integer(cells.type) or pa.types.is_null(cells.type):
        return cells.cast(pa.string())
    if pa.types.is_boolean(cells.type):
        return pc.if_else(cells, "True", "False")
    if pa.types.is_floating(cells.type) or pa.types.is_decimal(cells.type):
        values = cells.cast(pa.float64()).to_pylist()
        return pa.array(
            [None if v is None else str(int(v)) if math.isfinite(v) and v == int(v) else str(v) for v in values],
            pa.string(),
        )
    raise DataError(
        f"{part.place}: the label column {column!r} holds {cells.type}; labels are texts, numbers or lists of them"
    )
