"""Labels as batches need them: class ids, lists of label ids, or scores."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datamodules.errors import DataError
from datamodules.labels.label_cells import (
    PLACES_SHOWN,
    label_texts,
    missing_labels,
    missing_labels_error,
    named_scores_error,
)
from datamodules.labels.label_kind import LabelKind, number
from datamodules.sources.arrow_columns import first_true, is_list, is_text, true_places
from datamodules.sources.invisible_characters import as_seen
from datamodules.sources.text_source import Part


def encode_labels(
    part: Part,
    columns: Sequence[str],
    kind: LabelKind,
    names_of_numbers: Sequence[str] | None = None,
) -> pa.Array:
    """Return labels as the batches need them: class ids, lists of label ids, or scores.

    Args:
        part: Rows with the label columns.
        columns: The label column, or several columns of 0 and 1.
        kind: The kind of the task.
        names_of_numbers: Names of the numbers in the label column, if the data set names them.

    Raises:
        DataError: A label is missing, not finite, or not one of the training split's.
    """
    if len(columns) > 1:
        return _from_columns(part, columns, kind.label_names)
    column = columns[0]
    cells = part.table[column].combine_chunks()
    if len(rows := true_places(missing_labels(cells, names_of_numbers))):
        raise missing_labels_error([part.where(int(row)) for row in rows[:PLACES_SHOWN]], len(rows), column)
    if kind.problem_type == "regression":
        if names_of_numbers is not None:
            raise named_scores_error(column, names_of_numbers)
        return _scores(cells, column, part)
    has_lists = is_list(cells.type)
    if has_lists != (kind.problem_type == "multi_label_classification"):
        raise DataError(f"{part.where(0)}: the label column {column!r} holds {cells.type}, unlike the training split's")
    flat = pc.list_flatten(cells) if has_lists else cells
    texts = label_texts(flat, names_of_numbers, part, column)
    ids = pc.index_in(texts, value_set=pa.array(kind.label_names, pa.string()))
    if (at := first_true(pc.is_null(ids))) is not None:
        row = int(pc.list_parent_indices(cells)[at].as_py()) if has_lists else at
        known = ", ".join(kind.label_names[:20]) + ", ..." * (len(kind.label_names) > 20)
        label = texts[at].as_py()
        alike = next((f"; it looks like {name!a}" for name in kind.label_names if as_seen(name) == as_seen(label)), "")
        raise DataError(
            f"{part.where(row)}: label {ascii(label) if alike else repr(label)} in column {column!r} is none of the "
            f"training labels {known}{alike}"
        )
    if not has_lists:
        return ids.cast(pa.int64())
    rows = pc.list_parent_indices(cells).to_numpy(zero_copy_only=False)
    own = ids.to_numpy(zero_copy_only=False).astype(np.int64)
    # A label that a list names twice is one label of the text.
    kept = np.sort(np.unique(rows * kind.num_labels + own, return_index=True)[1])
    lengths = np.bincount(rows[kept], minlength=len(cells))
    return pa.ListArray.from_arrays(_offsets(lengths), pa.array(own[kept].astype(np.int32)))


def _from_columns(part: Part, columns: Sequence[str], names: Sequence[str]) -> pa.Array:
    if sorted(columns) != sorted(names):
        raise DataError(
            f"label_column: the columns {', '.join(columns)} are not the labels, which are {', '.join(names)}; several "
            "label columns are named as the labels"
        )
    matrix = np.zeros((len(part.table), len(columns)), dtype=bool)
    # The columns may be given in another order than the labels have, as that of a checkpoint.
    for place, column in enumerate(names):
        cells = part.table[column].combine_chunks()
        texts = label_texts(cells, None, part, column)
        lowered = pc.utf8_lower(pc.utf8_trim_whitespace(texts))
        is_one = pc.is_in(lowered, value_set=pa.array(["1", "1.0", "true"]))
        is_zero = pc.is_in(lowered, value_set=pa.array(["0", "0.0", "false"]))
        if (row := first_true(pc.invert(pc.or_(is_one, is_zero)))) is not None:
            cell = texts[row].as_py()
            said, way_out = (
                ("is missing", ", and drop_empty leaves such rows out") if not cell else (f"is {cell!r}", "")
            )
            raise DataError(f"{part.where(row)}: the label in column {column!r} {said}; allowed are 0 and 1{way_out}")
        matrix[:, place] = is_one.to_numpy(zero_copy_only=False)
    return pa.ListArray.from_arrays(_offsets(matrix.sum(axis=1)), pa.array(np.nonzero(matrix)[1].astype(np.int32)))


def _scores(cells: pa.Array, column: str, part: Part) -> pa.Array:
    if is_text(cells.type):
        scores = np.array([number(text) for text in cells.cast(pa.string()).to_pylist()])
    elif pa.types.is_integer(cells.type) or pa.types.is_floating(cells.type) or pa.types.is_decimal(cells.type):
        scores = cells.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    else:
        raise DataError(f"{part.where(0)}: the label column {column!r} holds {cells.type}, not numbers")
    # Batches are float32.
    with np.errstate(over="ignore"):
        narrow = scores.astype(np.float32)
    if (row := first_true(pa.array(~np.isfinite(narrow)))) is not None:
        raise DataError(f"{part.where(row)}: label {cells[row].as_py()!r} in column {column!r} is not a finite number")
    return pa.array(narrow)


def _offsets(lengths: np.ndarray) -> pa.Array:
    return pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
