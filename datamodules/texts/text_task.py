"""The task of the user's texts: its columns and the kind of its labels, found from the training rows."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from datamodules.labels.label_kind import LabelKind, ProblemType, find_kind
from datamodules.sources.row_cache import file_of, new_file
from datamodules.sources.text_source import TextSource
from datamodules.texts.column_choice import USUAL_LABEL, USUAL_TEXT, choose_label_columns, choose_text_columns
from datamodules.texts.usable_rows import usable_rows

# To be raised when the same content gives another task, so that older files are not used.
TASK_VERSION = 4


@dataclass(frozen=True)
class TextTask:
    """Columns of a task and the kind of its labels.

    Args:
        text_columns: One text column, or two.
        label_columns: The label column, or several columns of 0 and 1.
        all_columns: All columns of the training rows.
        kind: The kind of the labels.
    """

    text_columns: tuple[str, ...]
    label_columns: tuple[str, ...]
    all_columns: tuple[str, ...]
    kind: LabelKind


@dataclass(frozen=True)
class TaskOptions:
    """The user's options for the task; those that are ``None`` are found from the rows.

    Args:
        text_columns: One text column, or two.
        label_columns: The label column, or several columns of 0 and 1.
        problem_type: The kind of the task.
        label_names: Names of the labels in order.
        drop_empty: Whether rows with an empty text or no label are left out.
    """

    text_columns: list[str] | None = None
    label_columns: list[str] | None = None
    problem_type: ProblemType | None = None
    label_names: list[str] | None = None
    drop_empty: bool = False


def find_task(source: TextSource, options: TaskOptions, cache_dir: Path) -> TextTask:
    """Find the task from the training rows, once per content of them: it is kept in a file.

    Args:
        source: The training rows.
        options: What the user has said.
        cache_dir: The folder of the files.

    Raises:
        DataError: There is a choice, or the labels are of no allowed kind.
    """
    key = {"rows": source.fingerprint(), "options": asdict(options), "version": TASK_VERSION}
    file = file_of(cache_dir, key, ".json")
    # A damaged file is written again.
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        return _from_json(file.read_text(encoding="utf-8"))
    labels = choose_label_columns(source, options.label_columns, options.text_columns)
    texts = choose_text_columns(source, options.text_columns, labels)
    parts = source.parts(list(dict.fromkeys([*texts, *labels])))
    names = source.label_names.get(labels[0])
    kind = find_kind(
        (usable_rows(part, texts, labels, names, options.drop_empty) for part in parts),
        labels,
        names,
        options.problem_type,
        options.label_names,
        source.place,
    )
    task = TextTask(texts, labels, tuple(source.schema.names), kind)
    with new_file(file) as stream:
        stream.write(json.dumps(asdict(task)).encode())
    return task


def task_line(task: TextTask, options: TaskOptions) -> str:
    """Return the task in one line, with what was guessed."""

    def said(columns: Sequence[str], named: Sequence[str] | None) -> str:
        is_usual = columns[0] in (USUAL_TEXT, USUAL_LABEL) and len(task.all_columns) > 2
        guessed = " (by its name)" if is_usual else " (the only possible column)"
        return ", ".join(columns) + guessed * (named is None)

    kind = task.kind
    names = ", ".join(kind.label_names[:10]) + f", ... ({len(kind.label_names)})" * (len(kind.label_names) > 10)
    chosen = "as problem_type says" if options.problem_type is not None else f"from {kind.found_from}"
    return (
        f"text: {said(task.text_columns, options.text_columns)}; "
        f"labels: {said(task.label_columns, options.label_columns)}; {kind.problem_type}, {chosen}"
        + (f": {' '.join(names.split())}" if names else "")
    )


def _from_json(text: str) -> TextTask:
    found = json.loads(text)
    kind = found["kind"]
    return TextTask(
        tuple(found["text_columns"]),
        tuple(found["label_columns"]),
        tuple(found["all_columns"]),
        LabelKind(kind["problem_type"], tuple(kind["label_names"]), kind["found_from"]),
    )
