"""Rows of the user's files, read in batches: literal texts, and errors that name file and row."""

from __future__ import annotations

import csv
import glob
import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from datamodules.errors import DataError, first_line
from datamodules.sources.arrow_columns import written_out
from datamodules.sources.column_types import ColumnTypes, json_cells
from datamodules.sources.json_lines import json_column_types, json_tables
from datamodules.sources.text_source import Part, rows_at_once

SUFFIXES = {
    ".csv": "csv",
    ".tsv": "csv",
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "json",
    ".parquet": "parquet",
}
Quoting = Literal["minimal", "none"]
# A row of a CSV file must fit into a block.
CSV_BLOCK_BYTES = 4 * 2**20


class FileSource:
    """Rows of CSV, TSV, JSON lines or Parquet files, one after the other.

    Cells of CSV and TSV files are texts as they stand there: NA, None, null and nan are no gaps. With quoting, cells
    may be within double quotes, and hold delimiters, line breaks and doubled quotes there (RFC 4180). Blank lines are
    no rows. A byte-order mark is dropped. A file that is named twice, as by two patterns, is read once. A column that
    is not asked for may be missing in some files, and hold values of any kinds (``json_columns``).

    Args:
        files: Paths or glob patterns, with the suffix .csv, .tsv, .jsonl, .ndjson, .json (JSON lines) or .parquet.
        option: Name of the option that the files come from, for messages.
        delimiter: One character that separates the cells of CSV and TSV files. Default: a comma, and a tab in .tsv.
        quoting: ``minimal`` or ``none``: quotes are characters like others.

    Raises:
        DataError: A file does not exist, or its suffix is another one.
    """

    def __init__(
        self,
        files: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        option: str,
        delimiter: str | None = None,
        quoting: Quoting = "minimal",
    ) -> None:
        self.delimiter, self.quoting = delimiter, quoting
        self.files: list[Path] = []
        for pattern in [files] if isinstance(files, str | os.PathLike) else files:
            expanded = str(Path(pattern).expanduser())
            # A file whose name holds brackets is no pattern.
            found = [expanded] if Path(expanded).exists() else sorted(glob.glob(expanded, recursive=True))
            if not found:
                raise DataError(f"{option}: there is no file {pattern}")
            self.files += [Path(name) for name in found]
        self.files = list({os.path.abspath(file): file for file in self.files}.values())
        if not self.files:
            raise DataError(f"{option}: no files are named")
        for file in self.files:
            if file.is_dir():
                raise DataError(f"{option}: {file} is a folder; name its files, or give dataset for a saved data set")
            if file.suffix.lower() not in SUFFIXES:
                raise DataError(f"{option}: {file} has none of the suffixes {', '.join(SUFFIXES)}")
        self.place = ", ".join(map(str, self.files[:3])) + ", ..." * (len(self.files) > 3)
        self.label_names: dict[str, list[str]] = {}
        self._hashed: tuple[list, str] | None = None

    def fingerprint(self) -> str:
        try:
            # Within one run the date of a file is enough to know whether it is the one that was hashed.
            states = [(stat.st_size, stat.st_mtime_ns, stat.st_ino) for stat in (file.stat() for file in self.files)]
            hashed = self._hashed
            if hashed is None or hashed[0] != states:
                digest = hashlib.sha256(json.dumps([self.delimiter, self.quoting]).encode())
                for file in self.files:
                    digest.update(file.suffix.lower().encode())
                    with file.open("rb") as stream:
                        digest.update(hashlib.file_digest(stream, "sha256").digest())
                hashed = self._hashed = (states, digest.hexdigest())
        except OSError as error:
            raise DataError(f"cannot read {error.filename}: {error.strerror}") from error
        return hashed[1]

    @property
    def schema(self) -> pa.Schema:
        return pa.schema(list(self._columns.types.items()))

    @property
    def json_columns(self) -> dict[str, str]:
        return self._columns.no_type

    def parts(self, columns: Sequence[str] | None = None) -> Iterator[Part]:
        types = self._columns.types
        names = list(types if columns is None else columns)
        schema = pa.schema([(name, types[name]) for name in names])
        for file in self.files:
            if columns is not None:
                self._check_has(file, columns)
            row = 1
            for table in self._tables(file, names):
                if len(table):
                    yield Part(_cast(table, schema, file), str(file), row)
                row += len(table)

    def _check_has(self, file: Path, columns: Sequence[str]) -> None:
        own = self._of_files[file].types
        missing = next((name for name in columns if name not in own), None)
        # In JSON lines a name that is left out is a gap.
        if missing is not None and _kind(file) != "json":
            raise DataError(
                f"{file} has no column {missing!r}, which other files of the split have; its columns are "
                f"{', '.join(own)}"
            )

    @cached_property
    def _of_files(self) -> dict[Path, ColumnTypes]:
        return {file: self._columns_of(file) for file in self.files}

    @cached_property
    def _columns(self) -> ColumnTypes:
        found = ColumnTypes()
        for file, columns in self._of_files.items():
            for name, kind in columns.types.items():
                if name in columns.no_type:
                    found.take_over(name, columns)
                else:
                    found.add(name, kind, str(file))
        if not found.types:
            raise DataError(f"{self.place} has no rows")
        return found

    def _columns_of(self, file: Path) -> ColumnTypes:
        if _kind(file) == "json":
            return json_column_types(file)
        try:
            if _kind(file) == "parquet":
                fields = [(each.name, written_out(each.type)) for each in pa.parquet.read_schema(file)]
            else:
                fields = [(name, pa.string()) for name in self._header(file)]
        except OSError as error:
            raise DataError(f"cannot read {file}: {error.strerror or error}") from error
        except pa.ArrowInvalid as error:
            raise DataError(f"{file}: not a Parquet file ({first_line(error)})") from error
        names = [name for name, _ in fields]
        if len(set(names)) < len(names):
            twice = sorted({name or repr(name) for name in names if names.count(name) > 1})
            raise DataError(f"{file}: more than one column is named {', '.join(twice)}")
        found = ColumnTypes()
        for name, type_of_cells in fields:
            found.add(name, type_of_cells, str(file))
        return found

    def _tables(self, file: Path, names: list[str]) -> Iterator[pa.Table]:
        as_json = [name for name in names if name in self.json_columns]
        if _kind(file) == "json":
            yield from json_tables(file, names, as_json)
            return
        own = [name for name in names if name in self._of_files[file].types]
        row = 1
        for table in self._csv_tables(file, own) if _kind(file) == "csv" else _parquet_tables(file, own):
            columns = {name: table[name] if name in own else pa.nulls(len(table)) for name in names}
            for name in as_json:
                rows = range(row, row + len(table))
                columns[name] = json_cells(columns[name].to_pylist(), name, f"{file}, row", rows)
            yield pa.table(columns)
            row += len(table)

    # CSV

    def _delimiter(self, file: Path) -> str:
        return self.delimiter or ("\t" if file.suffix.lower() == ".tsv" else ",")

    def _header(self, file: Path) -> list[str]:
        try:
            with file.open(encoding="utf-8-sig", newline="") as stream:
                rows = csv.reader(
                    stream,
                    delimiter=self._delimiter(file),
                    quoting=csv.QUOTE_MINIMAL if self.quoting == "minimal" else csv.QUOTE_NONE,
                )
                header = next((row for row in rows if row), None)
        except UnicodeDecodeError:
            raise DataError(_not_utf8(file)) from None
        except csv.Error as error:
            raise DataError(f"{file}, line 1: {error}") from error
        if header is None:
            raise DataError(f"{file} is empty; its first line must name the columns")
        other = next((character for character in ";\t|" if character in header[0]), None)
        if len(header) == 1 and other is not None and self.delimiter is None:
            raise DataError(
                f"{file}: the header has one cell, {header[0]!r}; is {other!r} the delimiter? give delimiter"
            )
        return header

    def _csv_tables(self, file: Path, names: list[str]) -> Iterator[pa.Table]:
        quoted = self.quoting == "minimal"
        try:
            with pa.csv.open_csv(
                file,
                # Threads would hide the number of a row that cannot be parsed.
                read_options=pa.csv.ReadOptions(use_threads=False, block_size=CSV_BLOCK_BYTES),
                parse_options=pa.csv.ParseOptions(
                    delimiter=self._delimiter(file), quote_char='"' if quoted else False, newlines_in_values=quoted
                ),
                convert_options=pa.csv.ConvertOptions(
                    column_types={name: pa.string() for name in names},
                    include_columns=names,
                    strings_can_be_null=False,
                    quoted_strings_can_be_null=False,
                ),
            ) as reader:
                for batch in reader:
                    yield pa.Table.from_batches([batch])
        except OSError as error:
            raise DataError(f"cannot read {file}: {error.strerror or error}") from error
        except (pa.ArrowInvalid, pa.ArrowKeyError) as error:
            raise DataError(_csv_complaint(file, str(error), quoted)) from error


def _kind(file: Path) -> str:
    return SUFFIXES[file.suffix.lower()]


def _parquet_tables(file: Path, names: list[str]) -> Iterator[pa.Table]:
    try:
        opened = pa.parquet.ParquetFile(file)
        groups = (opened.metadata.row_group(group) for group in range(opened.num_row_groups))
        rows = rows_at_once(opened.metadata.num_rows, sum(group.total_byte_size for group in groups))
        for batch in opened.iter_batches(rows, columns=names):
            yield pa.Table.from_batches([batch]).select(names)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"cannot read {file}: {first_line(error)}") from error


def _cast(table: pa.Table, schema: pa.Schema, file: Path) -> pa.Table:
    try:
        return table if table.schema.equals(schema) else table.cast(schema)
    except pa.ArrowException as error:
        raise DataError(f"{file}: a column holds values of several kinds ({first_line(error)})") from error


# Messages


def _csv_complaint(file: Path, message: str, quoted: bool) -> str:
    """Return in one line, with the row's number, what pyarrow says of a CSV file."""
    row = re.search(r"Row #(\d+)", message)
    where = f"{file}, row {int(row[1]) - 1}" if row else str(file)
    hint = "; a quote that is not closed? quoting=none takes quotes as characters" if quoted else ""
    if "invalid UTF8" in message:
        return _not_utf8(file)
    if "straddl" in message:
        return f"{file}: a row is longer than {CSV_BLOCK_BYTES:,} bytes{hint}; longer texts are read from JSON lines"
    count = re.search(r"Expected (\d+) columns?, got (\d+)", message)
    if count:
        told = f"{where}: {count[2]} cells where the header has {count[1]}"
        return told + (hint if int(count[2]) < int(count[1]) else "")
    return f"{where}: {first_line(message)[:200]}{hint}"


def _not_utf8(file: Path) -> str:
    # Excel's plain "CSV" is written in the code page of the system.
    return (
        f'{file}, line {_line_of_bad_utf8(file)}: not UTF-8 text; in Excel save as "CSV UTF-8", or convert with iconv'
    )


def _line_of_bad_utf8(file: Path) -> int:
    with file.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError:
                return number
    return 1
