"""Tokenization of batches of texts into Arrow columns."""

from __future__ import annotations

import copy
import logging
import threading
from collections.abc import Sequence
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
from transformers import PreTrainedTokenizerBase

from datamodules.errors import DataError
from datamodules.tokens.word_table import WordTable


class Encoder:
    """Turns texts, or pairs of texts, into columns of token ids.

    The tokenizer's backend is called directly where it gives what the tokenizer gives: that skips the offsets and the
    Python objects per row, which take as long as the tokenization. For tokenizers of BERT's kind words are looked up.

    Args:
        tokenizer: The tokenizer.
        max_length: Longer rows are truncated to this many tokens (of a pair, the longer text first).
        pair: Whether rows are pairs of texts.
        max_windows: Cut a long text into up to this many windows of ``max_length`` tokens; a row is then a list of
            windows. Default: one row of tokens, the rest is cut off.
        window_overlap: Tokens that a window shares with the one before it.
        count_lost: Whether to add the columns ``length`` (tokens that are kept) and ``lost_tokens``.

    Raises:
        DataError: Windows of a pair, or of a tokenizer without a backend, or an overlap as long as a window.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        pair: bool,
        max_windows: int | None = None,
        window_overlap: int = 0,
        count_lost: bool = False,
    ) -> None:
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.special = tokenizer.num_special_tokens_to_add(pair=pair)
        self.max_windows = max_windows
        self.window_overlap = window_overlap
        self.count_lost = count_lost
        self.has_types = "token_type_ids" in tokenizer.model_input_names
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if max_windows is not None:
            if pair:
                raise DataError("long_texts=windows cuts one text; with two text columns use long_texts=truncate")
            if backend is None:
                raise DataError(f"long_texts=windows needs a fast tokenizer; {type(tokenizer).__name__} is not one")
            if window_overlap >= max_length - self.special:
                raise DataError(
                    f"window_overlap {window_overlap} is out of range: 0 to {max_length - self.special - 1}, less than "
                    "the text tokens of a window"
                )
        self._backend = self._untruncated = self._words = None
        if backend is None and pair:
            # transformers warns of each pair that is cut that it returns no rest, for which nobody has asked.
            logging.getLogger("transformers.tokenization_python").addFilter(_is_not_about_the_rest)
        if backend is not None:
            # Copies: a call of the tokenizer changes the truncation of its backend.
            self._backend, self._untruncated = copy.deepcopy(backend), copy.deepcopy(backend)
            self._backend.no_padding()
            self._backend.enable_truncation(
                max_length,
                stride=window_overlap if max_windows is not None else 0,
                direction=tokenizer.truncation_side,
            )
            self._untruncated.no_padding()
            self._untruncated.no_truncation()
            self._words = WordTable.of(self._untruncated, pair)
        self._compared = backend is None
        # Calls of a tokenizer change its backend; a backend alone may be called by several threads.
        self._lock = threading.Lock()

    @property
    def features(self) -> dict[str, Any]:
        """The columns that :meth:`columns` returns, as `datasets` describes them."""
        ids: Any = datasets.List(datasets.Value("int32"))
        types: Any = datasets.List(datasets.Value("int8"))
        if self.max_windows is not None:
            ids, types = datasets.List(ids), datasets.List(types)
        features = {"input_ids": ids}
        if self.has_types:
            features["token_type_ids"] = types
        if self.count_lost:
            features |= {"length": datasets.Value("int32"), "lost_tokens": datasets.Value("int32")}
        return features

    def columns(self, *texts: Sequence[str]) -> dict[str, pa.Array]:
        """Tokenize rows, given as one list of texts or as two lists of equal length."""
        schema = datasets.Features(self.features).arrow_schema
        found = self._windows(texts[0]) if self.max_windows is not None else self._rows(texts)
        return {
            name: found[name] if isinstance(found[name], pa.Array) else pa.array(found[name], schema.field(name).type)
            for name in schema.names
        }

    def _rows(self, texts: Sequence[Sequence[str]]) -> dict[str, Any]:
        with self._lock:
            if not self._compared:
                self._compare([column[:64] for column in texts])
        return self._from_words(texts) if self._words is not None else self._from_texts(texts)

    def _from_words(self, texts: Sequence[Sequence[str]]) -> dict[str, pa.Array]:
        assert self._words is not None
        assert self._backend is not None
        ids, types, full_lengths = self._words.rows(*texts)
        lengths = np.minimum(full_lengths, self.max_length)
        long = np.flatnonzero(full_lengths > self.max_length)
        if len(long):
            encodings = self._backend.encode_batch_fast(
                _inputs([[column[row] for row in long.tolist()] for column in texts])
            )
            ends = np.cumsum(full_lengths)
            ids_kept, types_kept, start = [], [], 0
            for row, encoding in zip(long, encodings, strict=True):
                ids_kept += [ids[start : ends[row] - full_lengths[row]], np.array(encoding.ids, np.int32)]
                types_kept += [types[start : ends[row] - full_lengths[row]], np.array(encoding.type_ids, np.int8)]
                lengths[row], start = len(encoding), ends[row]
            ids, types = np.concatenate([*ids_kept, ids[start:]]), np.concatenate([*types_kept, types[start:]])
        offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
        return {
            "input_ids": pa.ListArray.from_arrays(offsets, pa.array(ids)),
            "token_type_ids": pa.ListArray.from_arrays(offsets, pa.array(types)),
            "length": pa.array(lengths.astype(np.int32)),
            "lost_tokens": pa.array((full_lengths - lengths).astype(np.int32)),
        }

    def _from_texts(self, texts: Sequence[Sequence[str]]) -> dict[str, list]:
        if self._backend is None:
            with self._lock:
                encoding = self._reference(texts)
            ids, types = list(encoding["input_ids"]), list(encoding.get("token_type_ids", ()))
        else:
            encodings = self._backend.encode_batch_fast(_inputs(texts))
            ids = [each.ids for each in encodings]
            types = [each.type_ids for each in encodings] if self.has_types else []
        found: dict[str, list] = {"input_ids": ids, "token_type_ids": types}
        if self.count_lost:
            found["length"] = [len(row) for row in ids]
            found["lost_tokens"] = [0] * len(ids)
            full = [row for row, length in enumerate(found["length"]) if length >= self.max_length]
            if full:
                lengths = self._full_lengths([[column[row] for row in full] for column in texts])
                for row, length in zip(full, lengths, strict=True):
                    found["lost_tokens"][row] = length - found["length"][row]
        return found

    def _windows(self, texts: Sequence[str]) -> dict[str, list]:
        assert self._backend is not None
        found: dict[str, list] = {name: [] for name in ("input_ids", "token_type_ids", "length", "lost_tokens")}
        for encoding in self._backend.encode_batch_fast(list(texts)):
            windows = [encoding, *encoding.overflowing]
            kept, dropped = windows[: self.max_windows], windows[self.max_windows :]
            found["input_ids"].append([window.ids for window in kept])
            found["token_type_ids"].append([window.type_ids for window in kept])
            found["length"].append(sum(len(window) for window in kept))
            found["lost_tokens"].append(sum(len(window) - self.special - self.window_overlap for window in dropped))
        return found

    def _reference(self, texts: Sequence[Sequence[str]]) -> Any:
        return self.tokenizer(
            *map(list, texts), truncation=True, max_length=self.max_length, return_attention_mask=False
        )

    def _compare(self, texts: Sequence[Sequence[str]]) -> None:
        """Use the backend only if it gives what the tokenizer gives: a class may do more than its backend."""
        assert self._backend is not None
        encoding = self._reference(texts)
        found: dict[str, Any] = self._from_words(texts) if self._words is not None else self._from_texts(texts)
        for name in ("input_ids", "token_type_ids")[: 1 + self.has_types]:
            rows = found[name].to_pylist() if isinstance(found[name], pa.Array) else found[name]
            if rows != list(encoding[name]):
                self._backend = self._untruncated = self._words = None
                break
        self._compared = True

    def _full_lengths(self, texts: Sequence[Sequence[str]]) -> list[int]:
        if self._untruncated is not None:
            return [len(encoding) for encoding in self._untruncated.encode_batch_fast(_inputs(texts))]
        with self._lock:
            return [len(ids) for ids in self.tokenizer(*map(list, texts), verbose=False)["input_ids"]]


def _is_not_about_the_rest(record: logging.LogRecord) -> bool:
    return "overflowing tokens are not returned" not in record.getMessage()


def _inputs(texts: Sequence[Sequence[str]]) -> list:
    return list(texts[0]) if len(texts) == 1 else list(zip(*texts, strict=True))
