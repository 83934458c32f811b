"""The kind of a task, found from its labels: classes, several labels per text, or a score."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datamodules.errors import DataError
from datamodules.text_source import Part

ProblemType = Literal["single_label_classification", "multi_label_classification", "regression"]

INTEGER = re.compile(r"[+-]?\d+")
# What stands for a missing or non-finite number in a column of numbers; among names it is a name like others.
NO_NUMBER = {"", "na", "n/a", "nan", "none", "null", "inf", "+inf", "-inf", "infinity", "-infinity"}
MAX_LABELS = 100_000


@dataclass(frozen=True)
class LabelKind:
    """What the labels of a task are.

    Args:
        problem_type: In transformers' words.
        label_names: Names of the labels in the order of their ids; empty for regression.
        found_from: What it was found from, as it is printed.
    """

    problem_type: ProblemType
    label_names: tuple[str, ...]
    found_from: str = ""

    @property
    def num_labels(self) -> int:
        """Number of labels; 1 for regression."""
        return len(self.label_names) or 1


def find_kind(
    parts: Iterable[Part],
    columns: Sequence[str],
    names_of_numbers: Sequence[str] | None = None,
    problem_type: ProblemType | None = None,
    label_names: Sequence[str] | None = None,
) -> LabelKind:
    """Find the kind of a task from the labels of its training rows.

    Strings and integers are classes, named by them and sorted (integers by size); floats are scores; lists, and several
    columns of 0 and 1, are several labels per text.

    Args:
        parts: The training rows, with the label columns at least.
        columns: The label column, or several columns of 0 and 1.
        names_of_numbers: Names of the numbers in the label column, if the data set names them.
        problem_type: The kind, where it is known; the labels must allow it.
        label_names: The names in order, where they are known.

    Raises:
        DataError: A label is missing or not finite, there is one label only, or the labels are of no allowed kind.
    """
    if len(columns) > 1:
        if problem_type not in (None, "multi_label_classification"):
            raise DataError(f"problem_type={problem_type} has one label column; several are given")
        names = tuple(columns)
        if label_names is not None and tuple(label_names) != names:
            raise DataError("label_names: with several label columns their names are the labels'; leave it out")
        return LabelKind("multi_label_classification", names, f"{len(names)} columns of 0 and 1")
    survey = _Survey(columns[0], names_of_numbers)
    for part in parts:
        survey.add(part)
    return survey.kind(problem_type, label_names)


class _Survey:
    """What the cells of a label column are, collected in one pass."""

    def __init__(self, column: str, names_of_numbers: Sequence[str] | None) -> None:
        self.column = column
        self.names_of_numbers = names_of_numbers
        self.names: set[str] = set()
        self.rows = 0
        self.is_list = False
        self.is_float = False  # a typed column of floats
        self.first_missing: str | None = None
        self.first_name: tuple[str, str] | None = None  # the first cell that is no number, and where it stands
        self.first_no_number: tuple[str, str] | None = None
        self.has_integers = self.has_fractions = False

    def add(self, part: Part) -> None:
        self.rows += len(part.table)
        cells = part.table[self.column].combine_chunks()
        self.is_list = _is_list(cells.type)
        self.is_float = pa.types.is_floating(_inner_type(cells.type))
        missing = missing_labels(cells, self.names_of_numbers)
        if self.first_missing is None and (found := _first(missing)) is not None:
            self.first_missing = part.where(found)
        if self.is_list:
            cells = pc.list_flatten(cells)
        texts = label_texts(cells, self.names_of_numbers, part, self.column)
        for text in pc.unique(texts).to_pylist():
            if text is None:
                continue
            if INTEGER.fullmatch(text):
                self.has_integers = True
            elif text.strip().lower() in NO_NUMBER:
                if self.first_no_number is None:
                    self.first_no_number = (text, _where_text(part, texts, text, self.is_list))
            elif _is_number(text):
                self.has_fractions = True
            elif self.first_name is None:
                self.first_name = (text, _where_text(part, texts, text, self.is_list))
            if len(self.names) <= MAX_LABELS:
                self.names.add(text)

    def kind(self, problem_type: ProblemType | None, label_names: Sequence[str] | None) -> LabelKind:
        column = f"label column {self.column!r}"
        if self.rows == 0:
            raise DataError("the training split has no rows")
        if self.first_missing is not None:
            raise DataError(f"{self.first_missing}: the label in column {self.column!r} is missing")
        named = self.names_of_numbers is not None
        numbers = not named and self.first_name is None and (self.has_integers or self.has_fractions)
        if numbers and self.first_no_number is not None and not self.is_list:
            text, where = self.first_no_number
            raise DataError(f"{where}: label {text!r} in column {self.column!r} is not a finite number; the others are")
        found: ProblemType
        if self.is_list:
            found, said = "multi_label_classification", "lists"
        elif numbers and (self.has_fractions or self.is_float):
            found, said = "regression", "floats"
        else:
            found, said = (
                "single_label_classification",
                "integers" if numbers else "named numbers" if named else "texts",
            )
        chosen = problem_type or found
        if (chosen == "multi_label_classification") != self.is_list:
            raise DataError(
                f"problem_type={chosen}: the {column} holds {said}; several labels per text are lists, or several "
                "columns of 0 and 1"
            )
        if chosen == "regression":
            if self.first_name is not None or not numbers:
                text, where = self.first_name or self.first_no_number or ("", self.column)
                raise DataError(f"{where}: label {text!r} in column {self.column!r} is not a number")
            return LabelKind("regression", (), said)
        if label_names is not None:
            names = tuple(label_names)
        elif self.names_of_numbers is not None:
            names = tuple(self.names_of_numbers)
        elif len(self.names) > MAX_LABELS:
            raise DataError(f"the {column} has more than {MAX_LABELS} different labels; is it the right column?")
        elif numbers:
            names = tuple(sorted(self.names, key=lambda name: (float(name), name)))
        else:
            names = tuple(sorted(self.names))
        if len(self.names) < 2 and chosen == "single_label_classification":
            only = f", {next(iter(self.names))!r}" if self.names else ""
            raise DataError(f"the {column} of the training split has one class only{only}; at least two are needed")
        if len(names) < 2:
            raise DataError(f"the {column} of the training split has {len(names)} label; at least two are needed")
        return LabelKind(chosen, names, said)


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
        return _from_columns(part, columns)
    column = columns[0]
    cells = part.table[column].combine_chunks()
    if (row := _first(missing_labels(cells, names_of_numbers))) is not None:
        raise DataError(f"{part.where(row)}: the label in column {column!r} is missing")
    if kind.problem_type == "regression":
        return _scores(cells, column, part)
    is_list = _is_list(cells.type)
    if is_list != (kind.problem_type == "multi_label_classification"):
        raise DataError(f"{part.where(0)}: the label column {column!r} holds {cells.type}, unlike the training split's")
    flat = pc.list_flatten(cells) if is_list else cells
    texts = label_texts(flat, names_of_numbers, part, column)
    ids = pc.index_in(texts, value_set=pa.array(kind.label_names, pa.string()))
    if (at := _first(pc.is_null(ids))) is not None:
        row = int(pc.list_parent_indices(cells)[at].as_py()) if is_list else at
        known = ", ".join(kind.label_names[:20]) + ", ..." * (len(kind.label_names) > 20)
        raise DataError(
            f"{part.where(row)}: label {texts[at].as_py()!r} in column {column!r} is none of the training labels "
            f"{known}"
        )
    if not is_list:
        return ids.cast(pa.int64())
    lengths = pc.list_value_length(cells).to_numpy(zero_copy_only=False)
    return pa.ListArray.from_arrays(_offsets(lengths), ids.cast(pa.int32()))


def count_labels(labels: pa.ChunkedArray, num_labels: int) -> list[int]:
    """Return how many rows have each label, from class ids or lists of label ids; nothing is copied."""
    counts = [0] * num_labels
    for found in pc.value_counts(pc.list_flatten(labels) if _is_list(labels.type) else labels).to_pylist():
        counts[found["values"]] = found["counts"]
    return counts


def missing_labels(cells: pa.Array, names_of_numbers: Sequence[str] | None = None) -> pa.Array:
    """Return which cells have no label: gaps, empty texts, and -1 where the numbers have names."""
    missing = pc.is_null(cells)
    if pa.types.is_null(cells.type):
        return missing
    if _is_text(cells.type):
        missing = pc.or_(missing, pc.fill_null(pc.equal(pc.utf8_trim_whitespace(_text(cells)), ""), True))
    if names_of_numbers is not None and pa.types.is_integer(cells.type):
        missing = pc.or_(missing, pc.fill_null(pc.less(cells, 0), True))
    return missing


def label_texts(cells: pa.Array, names_of_numbers: Sequence[str] | None, part: Part, column: str) -> pa.Array:
    """Return labels as their names: texts as they are, whole numbers without a point."""
    if names_of_numbers is not None and pa.types.is_integer(cells.type):
        known = pc.if_else(pc.and_(pc.greater_equal(cells, 0), pc.less(cells, len(names_of_numbers))), cells, None)
        return pc.take(pa.array(names_of_numbers, pa.string()), known)
    if _is_text(cells.type):
        return _text(cells)
    if pa.types.is_integer(cells.type):
        return cells.cast(pa.string())
    if pa.types.is_boolean(cells.type):
        return pc.if_else(cells, "True", "False")
    if pa.types.is_floating(cells.type) or pa.types.is_decimal(cells.type):
        values = cells.cast(pa.float64()).to_pylist()
        return pa.array(
            [None if v is None else str(int(v)) if math.isfinite(v) and v == int(v) else str(v) for v in values],
            pa.string(),
        )
    if pa.types.is_null(cells.type):
        return cells.cast(pa.string())
    raise DataError(
        f"{part.place}: the label column {column!r} holds {cells.type}; labels are texts, numbers or lists of them"
    )


def _from_columns(part: Part, columns: Sequence[str]) -> pa.Array:
    matrix = np.zeros((len(part.table), len(columns)), dtype=bool)
    for place, column in enumerate(columns):
        cells = part.table[column].combine_chunks()
        texts = label_texts(cells, None, part, column)
        lowered = pc.utf8_lower(pc.utf8_trim_whitespace(texts))
        is_one = pc.is_in(lowered, value_set=pa.array(["1", "1.0", "true"]))
        is_zero = pc.is_in(lowered, value_set=pa.array(["0", "0.0", "false"]))
        if (row := _first(pc.invert(pc.or_(is_one, is_zero)))) is not None:
            cell = texts[row].as_py()
            said = "is missing" if not cell else f"is {cell!r}"
            raise DataError(f"{part.where(row)}: the label in column {column!r} {said}; allowed are 0 and 1")
        matrix[:, place] = is_one.to_numpy(zero_copy_only=False)
    return pa.ListArray.from_arrays(_offsets(matrix.sum(axis=1)), pa.array(np.nonzero(matrix)[1].astype(np.int32)))


def _scores(cells: pa.Array, column: str, part: Part) -> pa.Array:
    if _is_text(cells.type):
        scores = np.array([_number(text) for text in _text(cells).to_pylist()])
    elif pa.types.is_integer(cells.type) or pa.types.is_floating(cells.type) or pa.types.is_decimal(cells.type):
        scores = cells.cast(pa.float64()).to_numpy(zero_copy_only=False)
    else:
        raise DataError(f"{part.where(0)}: the label column {column!r} holds {cells.type}, not numbers")
    # Batches are float32.
    with np.errstate(over="ignore"):
        narrow = scores.astype(np.float32)
    if (row := _first(pa.array(~np.isfinite(narrow)))) is not None:
        raise DataError(f"{part.where(row)}: label {cells[row].as_py()!r} in column {column!r} is not a finite number")
    return pa.array(narrow)


def _offsets(lengths: np.ndarray) -> pa.Array:
    return pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _is_number(text: str) -> bool:
    return math.isfinite(_number(text)) and "_" not in text


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _text(cells: pa.Array) -> pa.Array:
    return cells.cast(pa.string())


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _inner_type(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if _is_list(kind) else kind


def _first(flags: pa.Array) -> int | None:
    found = pc.index(flags, pa.scalar(True)).as_py()
    return None if found < 0 else int(found)


def _where_text(part: Part, texts: pa.Array, text: str, is_list: bool) -> str:
    found = _first(pc.fill_null(pc.equal(texts, text), False))
    return part.place if found is None or is_list else part.where(found)
