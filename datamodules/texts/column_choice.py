"""Which columns hold the texts and the labels."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from datamodules.errors import DataError
from datamodules.sources.arrow_columns import is_text
from datamodules.sources.text_source import TextSource

# Columns that are taken by their names where there is a choice, as in the examples of Hugging Face.
USUAL_TEXT, USUAL_LABEL = "text", "label"


def choose_text_columns(source: TextSource, named: Sequence[str] | None, labels: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the named text columns, or the only column that can be the text, or that of several called ``text``.

    Args:
        source: The rows.
        named: One or two columns, if they are named.
        labels: Label columns, which are no texts.

    Raises:
        DataError: A named column does not exist or holds no texts, or there is a choice.
    """
    if named is not None:
        if not 1 <= len(named) <= 2 or len(set(named)) < len(named):
            raise DataError(f"text_columns: {', '.join(named) or 'none'}; one or two different columns are allowed")
        check_columns(source, "text_columns", named)
        for name in named:
            if not is_text(source.schema.field(name).type):
                raise DataError(
                    f"{source.place}: the text column {name!r} holds {source.schema.field(name).type}, not texts"
                )
            if name in labels:
                raise DataError(f"text_columns: {name!r} is the label column, too")
        return tuple(named)
    _check_usual(source, "text_columns", USUAL_TEXT)
    candidates = _usual([name for name in text_candidates(source) if name not in labels], USUAL_TEXT)
    if len(candidates) != 1:
        raise _ambiguous(source, "text_columns", candidates or source.schema.names)
    return tuple(candidates)


def choose_label_columns(
    source: TextSource, named: Sequence[str] | None, texts: Sequence[str] | None
) -> tuple[str, ...]:
    """Return the named label columns, or the only column beside the texts, or that of several called ``label``.

    Args:
        source: The rows.
        named: The label columns, if they are named.
        texts: The text columns, if they are named.

    Raises:
        DataError: A named column does not exist, or there is a choice.
    """
    if named is not None:
        if not named or len(set(named)) < len(named):
            raise DataError(f"label_column: {', '.join(named) or 'none'}; one or more different columns are allowed")
        check_columns(source, "label_column", named)
        return tuple(named)
    if texts is None:
        _check_usual(source, "text_columns", USUAL_TEXT)
        texts = _usual(text_candidates(source), USUAL_TEXT)
        if len(texts) != 1:
            raise _ambiguous(source, "text_columns and label_column", source.schema.names)
    else:
        check_columns(source, "text_columns", texts)
    candidates = _usual([name for name in source.schema.names if name not in texts], USUAL_LABEL)
    if len(candidates) != 1:
        raise _ambiguous(source, "label_column", candidates)
    check_columns(source, "label_column", candidates)
    return tuple(candidates)


def check_columns(source: TextSource, option: str, names: Sequence[str]) -> None:
    """Check that a source has columns, each of one type.

    Raises:
        DataError: It lacks one, or no one type fits it.
    """
    for name in names:
        if name not in source.schema.names:
            parts = [part.strip() for part in name.split(",")]
            are_several = len(parts) > 1 and set(parts) <= set(source.schema.names)
            hint = f"; of several columns give a list, [{','.join(parts)}]" if are_several else ""
            raise DataError(
                f"{option}: {source.place} has no column {name!r}; its columns are {_listed(source.schema.names)}{hint}"
            )
        if name in source.json_columns:
            raise DataError(f"{option}: {source.json_columns[name]}")


def text_candidates(source: TextSource) -> list[str]:
    """Return the columns of texts that are not all numbers, as far as the first rows show."""
    names = [name for name in source.schema.names if is_text(source.schema.field(name).type)]
    part = next(iter(source.parts(names)), None) if names else None
    return names if part is None else [name for name in names if not _all_numbers(part.table[name])]


def _check_usual(source: TextSource, option: str, name: str) -> None:
    """Check a column that would be taken by its name, if there is one."""
    if name in source.schema.names:
        check_columns(source, option, [name])


def _usual(candidates: list[str], name: str) -> list[str]:
    return [name] if name in candidates else candidates


def _all_numbers(cells: pa.ChunkedArray) -> bool:
    return bool(pc.all(pc.match_substring_regex(cells.cast(pa.string()), r"^\s*[-+]?[\d.]+\s*$")).as_py())


def _ambiguous(source: TextSource, option: str, candidates: Sequence[str]) -> DataError:
    columns = _listed(candidates) or "none"
    return DataError(f"{option}: not named, and {source.place} leaves a choice; name it, of the columns {columns}")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(name if name and name == name.strip() else repr(name) for name in names)
