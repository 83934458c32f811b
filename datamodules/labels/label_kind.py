"""The kind of a task, found from its labels: classes, several labels per text, or a score."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

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
from datamodules.sources.arrow_columns import first_true, is_list, true_places
from datamodules.sources.invisible_characters import as_seen
from datamodules.sources.text_source import Part

ProblemType = Literal["single_label_classification", "multi_label_classification", "regression"]

INTEGER = re.compile(r"[+-]?\d+")
# What stands for a missing or non-finite number in a column of numbers; among names it is a name like others.
NO_NUMBER = {"", "na", "n/a", "nan", "none", "null", "inf", "+inf", "-inf", "infinity", "-infinity"}
MAX_LABELS = 100_000
# Up to so many different whole floats may be meant as classes.
FEW_NUMBERS = 20


def checked_names(names: Sequence[str | int] | None) -> list[str] | None:
    """Return names of labels as texts; integers, as a YAML file may have them, are named by their digits.

    Args:
        names: The names that were given, if any.

    Raises:
        DataError: A name is given twice, or is something else.
    """
    if names is None:
        return None
    for name in names:
        if isinstance(name, bool) or not isinstance(name, str | int):
            raise DataError(f"label_names: {name!r} is neither a text nor an integer")
    texts = [str(name) for name in names]
    if len(set(texts)) < len(texts):
        raise DataError("label_names: a name is given twice")
    return texts


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
    place: str = "the training split",
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
        place: Name of the rows, for the message where there are none.

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
    profile = LabelProfile(columns[0], names_of_numbers)
    for part in parts:
        profile.add(part)
    if not profile.rows:
        raise DataError(f"{place} has no rows with a text and a label")
    return profile.kind(problem_type, label_names)


class LabelProfile:
    """Facts about the cells of a label column, collected in one pass over its rows.

    Args:
        column: Name of the column.
        names_of_numbers: Names of the numbers in it, if the data set names them.
    """

    def __init__(self, column: str, names_of_numbers: Sequence[str] | None) -> None:
        self.column = column
        self.names_of_numbers = names_of_numbers
        self.names: set[str] = set()
        self.rows = 0
        self.has_lists = False
        self.has_floats = False  # by the column's type
        self.has_integers = self.has_fractions = False
        self.missing = 0
        self.first_missing: list[str] = []  # the places of the first missing labels
        # The texts and places of the first cell that is a name, and of the first that stands for no finite number.
        self.first_name: tuple[str, str] | None = None
        self.first_no_number: tuple[str, str] | None = None

    def add(self, part: Part) -> None:
        """Add rows."""
        self.rows += len(part.table)
        cells = part.table[self.column].combine_chunks()
        self.has_lists = is_list(cells.type)
        self.has_floats = pa.types.is_floating(cells.type.value_type if self.has_lists else cells.type)
        missing = true_places(missing_labels(cells, self.names_of_numbers))
        self.missing += len(missing)
        self.first_missing += [part.where(int(row)) for row in missing[: PLACES_SHOWN - len(self.first_missing)]]
        cells = pc.list_flatten(cells) if self.has_lists else cells
        texts = label_texts(cells, self.names_of_numbers, part, self.column)
        for text in pc.unique(texts).drop_null().to_pylist():
            if INTEGER.fullmatch(text.strip()):
                self.has_integers = True
            elif text.strip().lower() in NO_NUMBER:
                self.first_no_number = self.first_no_number or (text, self._where(text, texts, part))
            elif math.isfinite(number(text)) and "_" not in text:
                self.has_fractions = True
            else:
                self.first_name = self.first_name or (text, self._where(text, texts, part))
            if len(self.names) <= MAX_LABELS:
                self.names.add(text)

    def kind(self, problem_type: ProblemType | None, label_names: Sequence[str] | None) -> LabelKind:
        """Return the kind of the task; see :func:`find_kind` for the arguments."""
        self._check_cells()
        found, found_from = self._found()
        chosen = problem_type or found
        if (chosen == "multi_label_classification") != self.has_lists:
            raise DataError(
                f"problem_type={chosen}: the label column {self.column!r} holds {found_from}; several labels per text "
                "are lists, or several columns of 0 and 1"
            )
        if chosen == "regression":
            if self.names_of_numbers is not None:
                raise named_scores_error(self.column, self.names_of_numbers)
            if not self.is_numeric:
                text, where = self.first_name or self.first_no_number or ("", self.column)
                raise DataError(f"{where}: label {text!r} in column {self.column!r} is not a number")
            return LabelKind("regression", (), found_from)
        if problem_type is None:
            self._check_lists()
        names = self._sorted_names() if label_names is None else tuple(label_names)
        split = f"the label column {self.column!r} of the training split"
        if len(self.names) < 2 and chosen == "single_label_classification":
            only = f", {next(iter(self.names))!r}" if self.names else ""
            raise DataError(f"{split} has one class only{only}; at least two are needed")
        if len(names) < 2:
            raise DataError(f"{split} has {len(names)} label; at least two are needed")
        return LabelKind(chosen, names, found_from)

    @property
    def is_numeric(self) -> bool:
        """Whether the labels are numbers, but for gaps, and have no names."""
        return self.names_of_numbers is None and self.first_name is None and (self.has_integers or self.has_fractions)

    def _check_cells(self) -> None:
        if self.missing:
            raise missing_labels_error(self.first_missing, self.missing, self.column)
        if self.is_numeric and self.first_no_number is not None and not self.has_lists:
            text, where = self.first_no_number
            raise DataError(f"{where}: label {text!r} in column {self.column!r} is not a finite number; the others are")

    def _check_lists(self) -> None:
        """Refuse lists that are no lists of names: as a text, or a vector of 0 and 1."""
        if not self.has_lists and self.names and all(map(is_written_list, self.names)):
            raise DataError(
                f"the label column {self.column!r} holds lists that are written as texts, such as {min(self.names)!r}; "
                "several labels per text are lists of JSON lines or Parquet, or several columns of 0 and 1; "
                "problem_type=single_label_classification takes each such text as one class"
            )
        if self.has_lists and self.has_floats and self.has_fractions:
            fraction = next(name for name in sorted(self.names) if not INTEGER.fullmatch(name))
            raise DataError(
                f"the label column {self.column!r} holds lists of numbers such as {fraction}, and a list has the names "
                "of a text's labels, texts or integers; problem_type=multi_label_classification takes each number as "
                "the name of a label"
            )
        if self.has_lists and self.names_of_numbers is None and self.names == {"0", "1"}:
            raise DataError(
                f"the label column {self.column!r} holds lists of 0 and 1, and a list has the names of a text's "
                "labels: of vectors make several columns of 0 and 1, or lists of the labels that are 1; "
                "problem_type=multi_label_classification takes 0 and 1 as the names of two labels"
            )

    def _found(self) -> tuple[ProblemType, str]:
        """Return the kind that the cells suggest, and what they are, for people."""
        if self.has_lists:
            return "multi_label_classification", "lists"
        if self.is_numeric and (self.has_fractions or self.has_floats):
            classes = {float(name) for name in self.names}
            if len(classes) <= FEW_NUMBERS and all(value.is_integer() for value in classes):
                # pandas makes floats of integers in a column with gaps.
                hint = f"problem_type=single_label_classification takes them as {len(classes)} classes"
                return "regression", f"whole floats ({hint})"
            return "regression", "floats"
        cells = "integers" if self.is_numeric else "texts" if self.names_of_numbers is None else "named numbers"
        return "single_label_classification", cells

    def _sorted_names(self) -> tuple[str, ...]:
        if self.names_of_numbers is not None:
            return tuple(self.names_of_numbers)
        if len(self.names) > MAX_LABELS:
            raise DataError(
                f"the label column {self.column!r} has more than {MAX_LABELS} different labels; is it the right column?"
            )
        names = sorted(self.names, key=lambda name: (_exact(name), name)) if self.is_numeric else sorted(self.names)
        seen: dict[str | float, str] = {}
        for name in names:
            other = seen.setdefault(_exact(name) if self.is_numeric else as_seen(name), name)
            if other != name:
                if self.is_numeric:
                    pair, how = f"{other!r} and {name!r}", "are one number"
                elif other.strip() == name.strip():
                    pair, how = f"{other!r} and {name!r}", "differ in spaces alone"
                else:
                    pair, how = f"{other!a} and {name!a}", "look the same"
                raise DataError(
                    f"the label column {self.column!r}: {pair} {how}; write them alike, or give label_names"
                )
        return tuple(names)

    def _where(self, text: str, texts: pa.Array, part: Part) -> str:
        # Of a flattened list it is not known which row it is of.
        row = None if self.has_lists else first_true(pc.fill_null(pc.equal(texts, text), False))
        return part.place if row is None else part.where(row)


def _exact(text: str) -> int | float:
    # A float does not tell numbers of 64 bits, such as those of a database, from their neighbours.
    return int(text) if INTEGER.fullmatch(text.strip()) else float(text)


def number(text: str) -> float:
    """Return the number that a text stands for, NaN if it is none."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def is_written_list(text: str) -> bool:
    """Return whether a text is a list as Python or JSON write it, as lists in a CSV file are."""
    try:
        return text.startswith("[") and isinstance(ast.literal_eval(text), list)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return False
