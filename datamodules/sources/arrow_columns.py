"""Helpers for columns of Arrow tables."""

from __future__ import annotations

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def column_of(rows: datasets.Dataset, name: str) -> pa.ChunkedArray:
    """Return a column of a data set as Arrow holds it, without Python objects."""
    return rows.select_columns([name]).with_format("arrow")[:][name]


def is_text(kind: pa.DataType) -> bool:
    """Return whether cells of a type are texts."""
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def is_list(kind: pa.DataType) -> bool:
    """Return whether cells of a type are lists."""
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def innermost(kind: pa.DataType) -> pa.DataType:
    """Return the type of the cells, or of what is within their lists."""
    while is_list(kind):
        kind = kind.value_type
    return kind


def written_out(kind: pa.DataType) -> pa.DataType:
    """Return a type without dictionaries, whose cells, or whose lists' cells, are numbers in a table of values."""
    if pa.types.is_dictionary(kind):
        return kind.value_type
    if is_list(kind) and pa.types.is_dictionary(kind.value_type):
        return pa.list_(kind.value_type.value_type)
    return kind


def first_true(flags: pa.Array) -> int | None:
    """Return the place of the first true cell, None if there is none."""
    found = pc.index(flags, pa.scalar(True)).as_py()
    return None if found < 0 else int(found)


def true_places(flags: pa.Array) -> np.ndarray:
    """Return the places of the true cells; missing cells are none."""
    return np.flatnonzero(pc.fill_null(flags, False).to_numpy(zero_copy_only=False))
