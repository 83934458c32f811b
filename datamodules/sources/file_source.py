"""Rows of the user's files, read in batches: literal texts, and errors that name file and row."""

from __future__ import annotations

import csv
import glob
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from datamodules.errors import DataError, first_line
from datamodules.sources.arrow_columns import written_out
from datamodules.sources.text_source import BATCH_ROWS, Part

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
    no rows. A byte-order mark is dropped. A file that is named twice, as by two patterns, is read once.

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

    @cached_property
    def schema(self) -> pa.Schema:
        schemas = [self._schema(file) for file in self.files]
        for file, schema in zip(self.files, schemas, strict=True):
            names = schema.names
            if len(set(names)) < len(names):
                twice = sorted({name or repr(name) for name in names if names.count(name) > 1})
                raise DataError(f"{file}: more than one column is named {', '.join(twice)}")
            if set(names) != set(schemas[0].names):
                raise DataError(
                    f"{file} has the columns {', '.join(names)}, and {self.files[0]} {', '.join(schemas[0].names)}; "
                    "files of one split need the same columns"
                )
        return _unified(schemas, self.place)

    def parts(self, columns: Sequence[str] | None = None) -> Iterator[Part]:
        names = list(self.schema.names if columns is None else columns)
        schema = pa.schema([self.schema.field(name) for name in names])
        for file in self.files:
            row = 1
            for table in self._tables(file, names):
                if len(table):
                    yield Part(_cast(table, schema, file), str(file), row)
                row += len(table)

    def _schema(self, file: Path) -> pa.Schema:
        kind = SUFFIXES[file.suffix.lower()]
        try:
            if kind == "parquet":
                return pa.schema([(each.name, written_out(each.type)) for each in pa.parquet.read_schema(file)])
            if kind == "csv":
                return pa.schema([(name, pa.string()) for name in self._header(file)])
        except OSError as error:
            raise DataError(f"cannot read {file}: {error.strerror or error}") from error
        except pa.ArrowInvalid as error:
            raise DataError(f"{file}: not a Parquet file ({first_line(error)})") from error
        schemas = [table.schema for table in _json_tables(file)]
        if not schemas:
            raise DataError(f"{file} has no rows")
        return _unified(schemas, str(file))

    def _tables(self, file: Path, names: list[str]) -> Iterable[pa.Table]:
        kind = SUFFIXES[file.suffix.lower()]
        if kind == "csv":
            return self._csv_tables(file, names)
        if kind == "json":
            return (_with_columns(table, names) for table in _json_tables(file))
        return _parquet_tables(file, names)

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


def _parquet_tables(file: Path, names: list[str]) -> Iterator[pa.Table]:
    try:
        for batch in pa.parquet.ParquetFile(file).iter_batches(BATCH_ROWS, columns=names):
            yield pa.Table.from_batches([batch]).select(names)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"cannot read {file}: {first_line(error)}") from error


# JSON lines


def _json_tables(file: Path) -> Iterator[pa.Table]:
    """Read JSON lines with Python's parser: texts that look like dates stay texts."""
    try:
        with file.open("rb") as stream:
            rows: list[dict] = []
            numbers: list[int] = []
            for number, line in enumerate(stream, 1):
                line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
                if not line.strip():
                    continue
                rows.append(_json_object(line, f"{file}, line {number}"))
                numbers.append(number)
                if len(rows) == BATCH_ROWS:
                    yield _json_table(rows, file, numbers)
                    rows, numbers = [], []
            if rows:
                yield _json_table(rows, file, numbers)
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror}") from error


def _json_object(line: bytes, where: str) -> dict:
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


def _json_table(rows: list[dict], file: Path, numbers: list[int]) -> pa.Table:
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = {}
    for name in names:
        cells = [row.get(name) for row in rows]
        try:
            columns[name] = pa.array(cells)
        except (pa.ArrowException, UnicodeEncodeError, OverflowError) as error:
            span = f"lines {numbers[0]} to {numbers[-1]}"
            raise DataError(
                f"{file}, {span}: the column {name!r} cannot be read; its values are of several kinds or no valid text "
                f"({first_line(error)})"
            ) from error
    return pa.table(columns)


def _with_columns(table: pa.Table, names: list[str]) -> pa.Table:
    """Select columns; rows that lack one have a gap there."""
    return pa.table(
        {name: table[name] if name in table.column_names else pa.nulls(len(table)) for name in names},
    )


def _unified(schemas: list[pa.Schema], place: str) -> pa.Schema:
    try:
        return pa.unify_schemas(schemas, promote_options="permissive")
    except pa.ArrowException as error:
        raise DataError(f"{place}: a column holds values of several kinds ({first_line(error)})") from error


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
