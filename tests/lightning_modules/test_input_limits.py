"""What of a tokenizer and a length a model does not have is refused in one line, or left out."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from lightning_modules import ModelError, SequenceClassifier
from lightning_modules.batches.input_limits import check_data, check_length, longest_input, takes_token_types
from tests.families import family_batch, family_model
from tests.family_support import tokenizer


@pytest.mark.parametrize("family", ["bert", "roberta", "bart", "gpt2", "ctrl", "mpt", "gptj", "opt", "mpnet"])
def test_a_length_beyond_the_positions_is_refused(family: str) -> None:
    model = family_model(family)
    longest = longest_input(model)
    check_length(model, longest)
    with pytest.raises(ModelError, match=rf"^max_length: 128 tokens are more than this \w+ takes; at most {longest} "):
        check_length(model, 128)


@pytest.mark.parametrize("family", ["llama", "t5", "xlnet", "modernbert", "qwen3"])
def test_rotary_and_relative_positions_have_no_end(family: str) -> None:
    model = family_model(family)
    assert longest_input(model) < 600  # so that the model is run on as many
    check_length(model, 600)


def test_padding_to_a_multiple_counts() -> None:
    model = family_model("roberta")  # 47 positions
    check_data(model, SimpleNamespace(max_length=46))
    with pytest.raises(ModelError, match=r"^max_length: 48 tokens are more"):
        check_data(model, SimpleNamespace(max_length=46, pad_to_multiple_of=8))


def test_a_tokenizer_with_more_tokens_than_embeddings_is_refused() -> None:
    model = family_model("bert", vocab_size=50, eos_token_id=2)
    with pytest.raises(ModelError, match=r"^tokenizer: .* has 100 tokens and this \w+ has embeddings for 50; give"):
        check_data(model, SimpleNamespace(tokenizer=tokenizer()))
    check_data(family_model("bert"), SimpleNamespace(tokenizer=tokenizer()))
    check_data(family_model("canine"), SimpleNamespace(tokenizer=tokenizer()))


def test_tokens_that_were_added_and_are_never_used_do_no_harm() -> None:
    own = tokenizer()
    own.add_tokens(["[NEVER]"], special_tokens=True)
    model = family_model("bert")
    assert len(own) > model.get_input_embeddings().num_embeddings
    check_data(model, SimpleNamespace(tokenizer=own))


def test_token_types_that_a_model_does_not_have_are_left_out(tmp_path: Path) -> None:
    family_model("roberta", type_vocab_size=1).save_pretrained(tmp_path)
    module = SequenceClassifier(str(tmp_path), num_labels=3).eval()
    batch = family_batch()
    types = torch.ones_like(batch["input_ids"])
    with torch.no_grad():
        assert torch.equal(module(batch | {"token_type_ids": types}), module(batch))


def test_token_types_reach_a_model_that_has_them(tmp_path: Path) -> None:
    family_model("bert").save_pretrained(tmp_path)
    module = SequenceClassifier(str(tmp_path), num_labels=3).eval()
    batch = family_batch()
    with torch.no_grad():
        found = module(batch | {"token_type_ids": torch.ones_like(batch["input_ids"])})
        assert not torch.equal(found, module(batch))
    assert takes_token_types(family_model("bert"))
