"""Columns of tokens are what the tokenizer itself gives."""

from __future__ import annotations

import logging

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import CanineTokenizer, PreTrainedTokenizerFast

from datamodules import DataError
from datamodules.tokens.encoder import Encoder
from datamodules.tokens.tokenizer import load_tokenizer
from datamodules.tokens.word_table import WordTable

TEXTS = ["A short one", "", "ünïcödé 漢字 and \t tabs\n", "word " * 50, "x" * 300, "the end ."]


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer("offline:all-MiniLM-L6-v2")


def lists(columns):
    return {name: column.to_pylist() for name, column in columns.items()}


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("pair", [False, True])
def test_the_tokens_are_the_tokenizers(tokenizer, side, pair, monkeypatch):
    monkeypatch.setattr(tokenizer, "truncation_side", side)
    texts = [TEXTS, TEXTS[::-1]] if pair else [TEXTS]
    found = lists(Encoder(tokenizer, 16, pair, count_lost=True).columns(*texts))
    expected = tokenizer(*texts, truncation=True, max_length=16)
    assert found["input_ids"] == expected["input_ids"]
    assert found["token_type_ids"] == expected["token_type_ids"]
    full = [len(ids) for ids in tokenizer(*texts, verbose=False)["input_ids"]]
    assert found["length"] == [len(ids) for ids in expected["input_ids"]]
    assert found["lost_tokens"] == [max(length - 16, 0) for length in full]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=st.lists(
        st.text(st.characters(exclude_categories=["Cs"]))
        | st.sampled_from(["[MASK] a", "a[SEP]b", "É\u0301 \u0301e", "  "]),
        min_size=1,
        max_size=8,
    ),
    pair=st.booleans(),
    max_length=st.sampled_from([5, 12, 64]),
)
def test_words_that_are_looked_up_give_the_tokenizers_tokens(tokenizer, texts, pair, max_length):
    columns = [texts, texts[::-1]] if pair else [texts]
    encoder = Encoder(tokenizer, max_length, pair)
    assert encoder._words is not None
    # Without the comparison with the tokenizer, which would take over.
    encoder._compared = True
    expected = tokenizer(*columns, truncation=True, max_length=max_length)
    for _ in range(2):
        found = lists(encoder.columns(*columns))
        assert found["input_ids"] == expected["input_ids"]
        assert found["token_type_ids"] == expected["token_type_ids"]


def test_the_table_of_words_stays_small(tokenizer, monkeypatch):
    monkeypatch.setattr("datamodules.tokens.word_table.MAX_WORDS", 10)
    encoder = Encoder(tokenizer, 16, pair=False)
    for start in range(0, 60, 6):
        texts = [f"word{row} and {row}" for row in range(start, start + 6)]
        assert lists(encoder.columns(texts))["input_ids"] == tokenizer(texts)["input_ids"]
        assert len(encoder._words._index) <= 30


def test_tokenizers_of_other_kinds_have_no_table():
    backend = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    assert WordTable.of(backend, pair=False) is None
    spaced = load_tokenizer("offline:all-MiniLM-L6-v2")
    spaced.backend_tokenizer.no_padding()
    assert WordTable.of(spaced.backend_tokenizer, pair=False) is not None
    spaced.add_tokens("new york")
    assert WordTable.of(spaced.backend_tokenizer, pair=False) is None


def test_a_tokenizer_that_does_more_than_its_backend_is_asked_itself():
    class Shouting(PreTrainedTokenizerFast):
        def __call__(self, text, *arguments, **options):
            return super().__call__([each.upper() for each in text], *arguments, **options)

    backend = Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1, "A": 2}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    shouting = Shouting(tokenizer_object=backend, unk_token="[UNK]")
    found = lists(Encoder(shouting, 2, pair=False, count_lost=True).columns(["a A", "a a a"]))
    assert found["input_ids"] == [[2, 2], [2, 2]]
    assert found["lost_tokens"] == [0, 1]


def test_a_tokenizer_without_a_backend_says_nothing_of_each_pair_that_it_cuts(caplog):
    library = logging.getLogger("transformers")
    library.addHandler(caplog.handler)
    try:
        found = Encoder(CanineTokenizer(), 8, pair=True).columns(["a long text"], ["another one"])
    finally:
        library.removeHandler(caplog.handler)
    assert len(found["input_ids"][0]) == 8
    assert not caplog.records


def test_windows_overlap_and_are_limited(tokenizer):
    words = "zero one two three four five six seven eight nine ten"
    ids = tokenizer(words)["input_ids"][1:-1]
    found = lists(Encoder(tokenizer, 6, False, max_windows=10, window_overlap=1, count_lost=True).columns([words, "a"]))
    inner = [window[1:-1] for window in found["input_ids"][0]]
    assert [len(window) for window in inner] == [4, 4, 4, 2]
    assert inner[0] + [token for window in inner[1:] for token in window[1:]] == ids
    assert found["lost_tokens"] == [0, 0]
    assert len(found["input_ids"][1]) == 1

    found = lists(Encoder(tokenizer, 6, False, max_windows=2, window_overlap=1, count_lost=True).columns([words]))
    assert [window[1:-1] for window in found["input_ids"][0]] == [ids[:4], ids[3:7]]
    assert found["lost_tokens"] == [4]
    assert found["length"] == [12]


def test_windows_that_cannot_be(tokenizer):
    with pytest.raises(
        DataError, match=r"^long_texts=windows cuts one text; with two text columns use long_texts=trunc"
    ):
        Encoder(tokenizer, 16, pair=True, max_windows=2)
    with pytest.raises(DataError, match=r"^window_overlap 14 is out of range: 0 to 13, less than the text tokens of a"):
        Encoder(tokenizer, 16, pair=False, max_windows=2, window_overlap=14)
