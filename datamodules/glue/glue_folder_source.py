"""Reader of GLUE tasks from a folder of TSV files in the official layout."""

from __future__ import annotations

import hashlib
import logging
import math
from pathlib import Path

import datasets

from datamodules.errors import DataError
from datamodules.glue.glue_tasks import Task

log = logging.getLogger(__name__)

# QQP's training file is published with three rows that lack columns; many more mean that the file is damaged.
MAX_MALFORMED_ROWS = 16
MAX_SCORE = 5.0


class FolderSource:
    """Reads the official TSV files of GLUE.

    Fields are separated by tabs and never quoted: quotation marks are part of the text. Columns are found by their
    heading in the first line, except in CoLA's training and validation files, which have no header. A row with more
    columns than the heading is refused. A byte-order mark is dropped. A file may end without a line break.

    Args:
        task: The task to read.
        data_dir: The folder that holds the task's folder (``<data_dir>/SST-2/train.tsv``), or the task's folder itself.

    Raises:
        DataError: ``data_dir`` is neither.
    """

    def __init__(self, task: Task, data_dir: str) -> None:
        self.task = task
        root = Path(data_dir).expanduser()
        if not root.is_dir():
            raise DataError(f"data_dir {root} is not a folder")
        names = [name for split in task.splits for name in task.file_names(split)]
        if (root / task.folder).is_dir():
            self.folder = root / task.folder
        elif any((root / name).is_file() for name in names):
            self.folder = root
        else:
            raise DataError(f"data_dir {root} holds neither the folder {task.folder} nor the files {', '.join(names)}")

    def fingerprint(self, split: str) -> str:
        return hashlib.sha256(_read_bytes(self._path(split))).hexdigest()

    def read(self, split: str) -> datasets.Dataset:
        path, is_test = self._path(split), split.startswith("test")
        lines = _read_lines(path)
        headerless = () if is_test else self.task.headerless_columns
        header = list(headerless) or lines.pop(0).split("\t")
        first_line = 1 if headerless else 2
        if not lines:
            raise DataError(f"{path} has a header but no rows")
        positions = self._positions(path, header, is_test)
        needed = max(positions.values()) + 1
        columns: dict[str, list] = {name: [] for name in positions}
        malformed = []
        for number, line in enumerate(lines, first_line):
            fields = line.split("\t")
            if len(fields) < needed:
                malformed.append(number)
                is_last = number == first_line + len(lines) - 1
                tolerated = self.task.skips_malformed_rows and not is_test and not is_last
                if tolerated and len(malformed) <= MAX_MALFORMED_ROWS:
                    continue
                raise DataError(
                    f"{path}, line {number}: {len(fields)} column{'s' * (len(fields) > 1)} where at least {needed} are "
                    f"needed; the file is cut short or not a TSV of {self.task.name}"
                )
            if len(fields) > len(header):
                raise DataError(
                    f"{path}, line {number}: {len(fields)} columns where the heading has {len(header)}; a tab within a "
                    "text shifts the columns behind it"
                )
            for name, position in positions.items():
                text = fields[position]
                columns[name].append(self._parse_label(text, path, number) if name == "label" else text)
        if malformed:
            log.info("%s: left out %d rows with missing columns, at lines %s", path, len(malformed), malformed)
        published = self.task.row_counts[split]
        if len(lines) - len(malformed) != published:
            log.warning("%s has %d rows; as published it has %d", path, len(lines) - len(malformed), published)
        features = {name: datasets.Value("string") for name in self.task.text_columns}
        if "label" in columns:
            features["label"] = datasets.Value("float32" if self.task.is_regression else "int64")
        return datasets.Dataset.from_dict(columns, features=datasets.Features(features))

    def _positions(self, path: Path, header: list[str], is_test: bool) -> dict[str, int]:
        """Return where in a row each column is, by the hub's names; official test files have no ``label``."""
        # The official heading, or else the hub's name of the column in any case: the later publication of the
        # diagnostic set with labels has "Premise", "Hypothesis", "Label".
        names = [*self.task.text_columns, "label"]
        headings = [*self.task.tsv_text_columns, self.task.tsv_label_column]
        positions = {}
        for heading, name in zip(headings, names, strict=True):
            position = _find_column(header, heading, name)
            if position is not None:
                positions[name] = position
            elif name != "label" or not is_test:
                raise DataError(f"{path}, line 1: no column {heading!r}; the columns are {_quoted(*header)}")
        return positions

    def _path(self, split: str) -> Path:
        names = self.task.file_names(split)
        for name in names:
            if (self.folder / name).is_file():
                return self.folder / name
        files = " or ".join(str(self.folder / name) for name in names)
        raise DataError(f"{files} is missing; the {split} split of {self.task.name} is read from it")

    def _parse_label(self, text: str, path: Path, number: int) -> int | float:
        if self.task.is_regression:
            try:
                score = float(text)
            except ValueError:
                score = math.nan
            if not 0.0 <= score <= MAX_SCORE:
                raise DataError(f"{path}, line {number}: score {_quoted(text)} is not a number from 0 to {MAX_SCORE:g}")
            return score
        try:
            return self.task.label_texts.index(text)
        except ValueError:
            allowed = ", ".join(self.task.label_texts)
            raise DataError(f"{path}, line {number}: label {_quoted(text)} is not one of {allowed}") from None


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error


def _read_lines(path: Path) -> list[str]:
    content = _read_bytes(path)
    if not content.strip():
        raise DataError(f"{path} is empty")
    if (at := content.find(b"\0")) >= 0:
        raise DataError(f"{path}, line {_line_at(content, at)}: binary data, not a TSV text")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}, line {_line_at(content, error.start)}: not UTF-8 text") from None
    # Split at line breaks only: str.splitlines also splits at form feeds and Unicode separators inside sentences.
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    while lines and not lines[-1].strip():
        lines.pop()
    return lines


def _find_column(header: list[str], heading: str, name: str) -> int | None:
    if heading in header:
        return header.index(heading)
    lowered = [column.lower() for column in header]
    return lowered.index(name) if name in lowered else None


def _quoted(*texts: str) -> str:
    """Quote texts of a file for a message, shortened: a damaged file may have one line of megabytes."""
    shown = ", ".join(repr(text[:80]) for text in texts[:20])
    return shown + ", ..." * (len(texts) > 20)


def _line_at(content: bytes, position: int) -> int:
    return content.count(b"\n", 0, position) + 1
