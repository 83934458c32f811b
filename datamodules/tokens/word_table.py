"""Tokens of words that were seen before: tokenization of BERT's kind without running the tokenizer on every text."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from tokenizers import Tokenizer

# Words that are remembered; the table is emptied when it holds more.
MAX_WORDS = 100_000
# Entries of the table that are no words: the special tokens around and between the texts of a row.
EMPTY, BEFORE, BETWEEN, AFTER = range(4)


class WordTable:
    """Tokens of texts, put together from the tokens of the words between their spaces.

    That gives exactly the tokenizer's tokens where every step works on single characters or within words: a normalizer
    and a pre-tokenizer of BERT, WordPiece as the model, and no added token with a space in it; :meth:`of` checks it. A
    word goes through the tokenizer once. Everything else is arithmetic on arrays: a list per text, with Python's
    collection of garbage, would take as long as the tokenizer.

    Args:
        backend: The tokenizer, without truncation and padding.
        specials: Token ids before, between and after the texts of a row.
        special_types: Type of each of these three.
        text_types: Types of the tokens of the first and the second text.
    """

    def __init__(
        self,
        backend: Tokenizer,
        specials: Sequence[Sequence[int]],
        special_types: Sequence[int],
        text_types: Sequence[int],
    ) -> None:
        self.backend = backend
        self.specials = [[], *map(list, specials)]
        self.special_types = np.array([0, *special_types], dtype=np.int8)
        self.text_types = np.array(text_types, dtype=np.int8)
        self._lock = threading.Lock()
        self._empty()

    @classmethod
    def of(cls, backend: Tokenizer, pair: bool) -> WordTable | None:
        """Return a table for a tokenizer without truncation and padding, or ``None`` if texts are more than words."""
        state = json.loads(backend.to_str())
        kinds = [(state[part] or {}).get("type") for part in ("normalizer", "pre_tokenizer", "model")]
        if kinds != ["BertNormalizer", "BertPreTokenizer", "WordPiece"]:
            return None
        if any(" " in token.content for token in backend.get_added_tokens_decoder().values()):
            return None
        # Where the tokens of two words end up shows the special tokens around them.
        probes = ("a", "b") if pair else ("a",)
        encoding = backend.encode(*probes)
        places = []
        for probe in probes:
            token = backend.encode(probe, add_special_tokens=False).ids
            if len(token) != 1 or encoding.ids.count(token[0]) != 1:
                return None
            places.append(encoding.ids.index(token[0]))
        if places != sorted(places):
            return None
        bounds = [-1, *places, len(encoding.ids)]
        spans = [slice(first + 1, end) for first, end in pairwise(bounds)]
        if not pair:
            spans.insert(1, slice(0, 0))
        types = [set(encoding.type_ids[span]) for span in spans]
        if any(len(each) > 1 for each in types):
            return None
        text_types = [encoding.type_ids[place] for place in places]
        return cls(
            backend, [encoding.ids[span] for span in spans], [min(each, default=0) for each in types], text_types
        )

    def rows(self, *texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the token ids of all rows in one array, with special tokens and without truncation.

        Returns:
            The ids, their types, and the number of tokens of each row.
        """
        with self._lock:
            self._learn(texts)
            look_up = self._index.__getitem__
            entries: list[int] = []
            firsts: list[int] = []
            for row in zip(*texts, strict=True):
                firsts.append(len(entries))
                entries.append(BEFORE)
                entries.extend(map(look_up, row[0].split(" ")))
                if len(row) == 2:
                    entries.append(BETWEEN)
                    entries.extend(map(look_up, row[1].split(" ")))
                entries.append(AFTER)
            used = np.array(entries)
            sizes, starts, tokens = self._sizes[used], self._starts[used], self._tokens
        ends = np.cumsum(sizes)
        ids = tokens[np.arange(ends[-1]) + np.repeat(starts - (ends - sizes), sizes)]
        # 0 before what is between two texts, and 1 after it.
        text = np.cumsum(used == BETWEEN) - np.cumsum(used == BEFORE) + 1 if len(texts) == 2 else np.zeros_like(used)
        types = np.where(used <= AFTER, self.special_types[np.minimum(used, AFTER)], self.text_types[text])
        return ids, np.repeat(types, sizes), np.add.reduceat(sizes, firsts)

    def _empty(self) -> None:
        self._index: dict[str, int] = {"": EMPTY}
        self._sizes = np.array([len(ids) for ids in self.specials])
        self._starts = np.cumsum(self._sizes) - self._sizes
        self._tokens = np.array([token for ids in self.specials for token in ids], dtype=np.int32)

    def _learn(self, texts: Sequence[Sequence[str]]) -> None:
        """Add the words of texts that are not in the table."""
        if len(self._index) > MAX_WORDS:
            self._empty()
        words = set(" ".join([" ".join(column) for column in texts]).split(" "))
        missing = list(words - self._index.keys())
        if not missing:
            return
        # As the words of one text: an encoding for each would cost ten times as much.
        encoding = self.backend.encode(missing, is_pretokenized=True, add_special_tokens=False)
        sizes = np.bincount(np.array(encoding.word_ids, dtype=int), minlength=len(missing))
        first = len(self._sizes)
        self._index.update(zip(missing, range(first, first + len(missing)), strict=True))
        self._sizes = np.concatenate([self._sizes, sizes])
        self._starts = np.concatenate([self._starts, len(self._tokens) + np.cumsum(sizes) - sizes])
        self._tokens = np.concatenate([self._tokens, np.array(encoding.ids, dtype=np.int32)])
