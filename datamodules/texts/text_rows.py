"""The rows of a source of texts as they are tokenized: texts, labels, row numbers and a hash of the texts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from datamodules.errors import DataError
from datamodules.labels.label_encoding import encode_labels
from datamodules.labels.label_kind import LabelKind
from datamodules.sources.text_source import TextSource
from datamodules.texts.usable_rows import usable_rows

# Names of our own: a user's text column may be called "label".
TEXT_COLUMNS = ("first text", "second text")


def rows_to_tokenize(
    source: TextSource, texts: Sequence[str], labels: Sequence[str], kind: LabelKind | None, drop_empty: bool
) -> Iterator[pa.Table]:
    """Yield the rows of a source in batches: :data:`TEXT_COLUMNS`, ``label``, ``idx`` and ``text_hash``.

    Args:
        source: The rows.
        texts: Its text columns, one or two.
        labels: Its label columns; none where there are no labels.
        kind: The kind of the labels; None where there are none.
        drop_empty: Whether rows with an empty text or no label are left out.

    Raises:
        DataError: A text or a label cannot be used, or there is no row.
    """
    start, some = 0, False
    names = source.label_names.get(labels[0]) if labels else None
    for read in source.parts(list(dict.fromkeys([*texts, *labels]))):
        part = usable_rows(read, texts, labels, names, drop_empty)
        columns = {own: part.table[name].combine_chunks() for own, name in zip(TEXT_COLUMNS, texts, strict=False)}
        hashes = _hashes(list(columns.values()))
        if kind is not None:
            columns["label"] = encode_labels(part, labels, kind, names)
        columns |= {"idx": pa.array(start + np.asarray(part.kept), pa.int64()), "text_hash": hashes}
        start += len(read.table)
        if len(part.table):
            some = True
            yield pa.table(columns)
    if not some:
        raise DataError(f"{source.place} has no rows{' with a text' + ' and a label' * bool(labels) if start else ''}")


def _hashes(columns: Sequence[pa.Array]) -> pa.Array:
    """Return 64 bits of a hash of each row's texts, the same in every process, to find equal texts by."""
    rows = zip(*(column.to_pylist() for column in columns), strict=True)
    digests = b"".join(hashlib.blake2b("\0".join(row).encode(), digest_size=8).digest() for row in rows)
    return pa.array(np.frombuffer(digests, dtype=np.int64))
