from __future__ import annotations

import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from datamodules import DataError
from datamodules.batches.collator import Collator

ROWS = [
    {"input_ids": [5, 6, 7], "token_type_ids": [0, 1, 1], "label": 1, "idx": 4},
    {"input_ids": [8], "token_type_ids": [0], "label": 0, "idx": 2},
]


def tokenizer(**special_tokens):
    backend = Tokenizer(models.WordLevel({"[PAD]": 0, "<end>": 1, "a": 2}, unk_token="a"))
    return PreTrainedTokenizerFast(tokenizer_object=backend, **special_tokens)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("multiple", [1, 4])
def test_padding_is_the_tokenizers(side, multiple):
    padder = tokenizer(pad_token="[PAD]", padding_side=side)
    batch = Collator.for_tokenizer(padder, multiple, regression=False)(ROWS)
    expected = padder.pad(
        [{name: row[name] for name in ("input_ids", "token_type_ids")} for row in ROWS],
        pad_to_multiple_of=multiple,
        return_tensors="pt",
    )
    assert set(batch) == {*expected, "labels", "idx"}
    for name, tensor in expected.items():
        assert torch.equal(batch[name], tensor)
    assert batch["labels"].tolist() == [1, 0]
    assert batch["idx"].tolist() == [4, 2]


def test_rows_without_labels_and_token_types():
    batch = Collator(pad_token_id=9)([{"input_ids": [1], "idx": 0}, {"input_ids": [2, 3, 4], "idx": 1}])
    assert batch["input_ids"].tolist() == [[1, 9, 9], [2, 3, 4]]
    assert batch["attention_mask"].tolist() == [[1, 0, 0], [1, 1, 1]]
    assert set(batch) == {"input_ids", "attention_mask", "idx"}


def test_scores():
    rows = [{"input_ids": [1], "label": 2, "idx": 0}]
    assert Collator(0, regression=True)(rows)["labels"].dtype == torch.float32
    assert Collator(0)(rows)["labels"].dtype == torch.int64


def test_several_labels_per_text_are_a_matrix_of_zeros_and_ones():
    rows = [{"input_ids": [1], "label": ids, "idx": 0} for ids in ([2, 0], [], [1])]
    labels = Collator(0, num_labels=3)(rows)["labels"]
    assert labels.dtype == torch.float32
    assert labels.tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0]]


def test_windows_are_rows_of_the_batch_that_name_their_text():
    rows = [
        {"input_ids": [[5, 6, 7], [7, 8]], "token_type_ids": [[0, 0, 1], [0, 1]], "label": 1, "idx": 4},
        {"input_ids": [[9]], "token_type_ids": [[0]], "label": 0, "idx": 2},
    ]
    batch = Collator(0, windows=True)(rows)
    assert batch["input_ids"].tolist() == [[5, 6, 7], [7, 8, 0], [9, 0, 0]]
    assert batch["token_type_ids"].tolist() == [[0, 0, 1], [0, 1, 0], [0, 0, 0]]
    assert batch["text"].tolist() == [0, 0, 1]
    assert (batch["labels"].tolist(), batch["idx"].tolist()) == ([1, 0], [4, 2])


def test_the_end_of_text_pads_where_there_is_no_padding_token():
    assert Collator.for_tokenizer(tokenizer(eos_token="<end>"), 1, regression=False).pad_token_id == 1
    with pytest.raises(DataError, match=r"neither a padding nor an end-of-text token$"):
        Collator.for_tokenizer(tokenizer(), 1, regression=False)
