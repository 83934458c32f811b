"""Tokenization of rows in threads, with a cache on disk."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
from datasets.utils import tqdm
from transformers import PreTrainedTokenizerBase

from datamodules.sources.row_cache import stored
from datamodules.tokens.encoder import Encoder
from datamodules.tokens.tokenizer import tokenizer_fingerprint

# To be raised when the columns of tokenized data change, so that older files are not used.
CACHE_VERSION = 1
# Rows that are tokenized at once: few enough that their tokens stay in the processor's cache.
BATCH_ROWS = 500


def tokenized(
    read: Callable[[], Iterable[pa.Table] | datasets.Dataset],
    text_columns: tuple[str, ...],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    cache_dir: Path,
    key: dict[str, Any],
    description: str = "",
    max_windows: int | None = None,
    window_overlap: int = 0,
    count_lost: bool = False,
    fingerprint: str | None = None,
) -> datasets.Dataset:
    """Tokenize rows, or open the file of an earlier run.

    Rows are read, tokenized and written in small batches: memory does not grow with their number.

    Args:
        read: Returns the rows, whole or in batches, which have the same columns; called only if there is no file yet.
        text_columns: The columns to tokenize, one or a pair. Other columns are kept.
        tokenizer: The tokenizer.
        max_length: Longer rows are truncated to this many tokens (of a pair, the longer text first).
        cache_dir: The folder of the files.
        key: Everything that the rows depend on, in JSON types.
        description: Name of the rows in the progress bar.
        max_windows: See :class:`~datamodules.tokens.encoder.Encoder`, as for the next two.
        window_overlap: See there.
        count_lost: See there.
        fingerprint: The tokenizer's :func:`~datamodules.tokens.tokenizer.tokenizer_fingerprint`, if that is known.

    Returns:
        The rows with ``input_ids`` and, if the tokenizer returns them, ``token_type_ids``, memory-mapped.
    """
    complete_key = {
        **key,
        "version": CACHE_VERSION,
        "text_columns": text_columns,
        "tokenizer": fingerprint or tokenizer_fingerprint(tokenizer),
        "max_length": max_length,
    }
    if max_windows is not None or count_lost:
        complete_key |= {"windows": [max_windows, window_overlap], "count_lost": count_lost}

    def batches() -> Iterator[pa.Table]:
        encoder = Encoder(tokenizer, max_length, len(text_columns) == 2, max_windows, window_overlap, count_lost)

        def encode(rows: pa.Table) -> pa.Table:
            columns = encoder.columns(*(rows[column].to_pylist() for column in text_columns))
            kept = rows.drop_columns(list(text_columns))
            features = {
                **datasets.Features.from_arrow_schema(kept.schema),
                **{name: feature for name, feature in encoder.features.items() if name in columns},
            }
            arrays = {**{name: kept[name].combine_chunks() for name in kept.column_names}, **columns}
            return pa.table(arrays, schema=datasets.Features(features).arrow_schema)

        found = read()
        with tqdm(unit=" rows", desc=f"Tokenizing {description}".rstrip()) as bar:
            for table in _in_order(encode, _small(found)):
                bar.update(len(table))
                yield table

    return stored(cache_dir, complete_key, batches)


def _small(found: Iterable[pa.Table] | datasets.Dataset) -> Iterator[pa.Table]:
    tables = found.with_format("arrow").iter(BATCH_ROWS) if isinstance(found, datasets.Dataset) else found
    for table in tables:
        for start in range(0, len(table), BATCH_ROWS):
            yield table.slice(start, BATCH_ROWS)


def _in_order(function: Callable[[pa.Table], pa.Table], tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Apply a function to tables in as many threads as there are cores, and return the results in order."""
    threads = os.cpu_count() or 1
    with ThreadPoolExecutor(threads) as pool:
        pending: deque[Future] = deque()
        for table in tables:
            pending.append(pool.submit(function, table))
            if len(pending) > 2 * threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
