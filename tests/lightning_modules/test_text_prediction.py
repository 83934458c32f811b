"""Predictions for plain texts: in their order, as one by one, whatever the batches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from datamodules import tokenized_datamodule
from lightning_modules import ModelError
from lightning_modules.batches.input_limits import longest_input
from lightning_modules.trained_model import text_prediction
from lightning_modules.trained_model.text_prediction import named_predictions, token_batches
from tests.architectures import ARCHITECTURES, tiny_model
from tests.tiny_texts import tiny_classifier, tiny_texts, tiny_tokenizer


# Positions of GPT-2 count the padding, so that it is padded on the right alone.
@pytest.mark.parametrize(("architecture", "side"), [("bert", "right"), ("llama", "left"), ("gpt2", "right")])
def test_texts_in_batches_have_the_predictions_that_each_has_alone(
    tmp_path: Path, architecture: str, side: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = tiny_classifier(tmp_path / "start", architecture, 3)
    tokenizer = tiny_tokenizer(architecture)
    tokenizer.padding_side = side
    texts = [*tiny_texts(20), "w1", "w1", "unknown words", "w2 " * 60]
    alone = [module.predict_texts([text], tokenizer)[0] for text in texts]
    monkeypatch.setattr(text_prediction, "POOL", 7)
    for tokens in (1, 30, 4096):
        together = module.predict_texts(texts, tokenizer, tokens_per_batch=tokens)
        for found, wanted in zip(together, alone, strict=True):
            assert found["probabilities"] == pytest.approx(wanted["probabilities"], abs=1e-5)
            assert found["label"] == wanted["label"]
            assert found["score"] == found["probabilities"][found["label"]]
    assert module.predict_texts([], tokenizer) == []


def test_batches_have_as_many_tokens_as_those_of_an_evaluation_on_the_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = tiny_classifier(tmp_path / "start", num_labels=2)
    given = []

    def count(batch: dict[str, torch.Tensor], number: int) -> dict[str, torch.Tensor]:
        given.append(batch["input_ids"].numel())
        return {"probabilities": torch.zeros(len(batch["input_ids"]), 2)}

    monkeypatch.setattr(module, "predict_step", count)
    texts = ["w1 w2"] * 5_000
    for device, most in (("cpu", tokenized_datamodule.TOKENS_ON_CPU), ("cuda", tokenized_datamodule.TOKENS_ELSEWHERE)):
        given.clear()
        monkeypatch.setattr(type(module), "device", torch.device(device))
        monkeypatch.setattr(torch.Tensor, "to", lambda tensor, *others: tensor)
        module.predict_texts(texts)
        assert most // 2 < given[0] <= most


def test_the_mode_of_every_part_comes_back_and_nothing_keeps_a_gradient(tmp_path: Path) -> None:
    module = tiny_classifier(tmp_path / "start", trainable="head").train()
    modes = [part.training for part in module.modules()]
    assert True in modes
    assert False in modes
    first, second = (module.predict_texts(["w1 w2"]) for _ in range(2))
    assert first == second, "no dropout"
    assert [part.training for part in module.modules()] == modes

    def fail(*arguments: object) -> None:
        raise ZeroDivisionError

    module.predict_step = fail  # type: ignore[method-assign, assignment]
    with pytest.raises(ZeroDivisionError):
        module.predict_texts(["w1"])
    assert [part.training for part in module.modules()] == modes
    module.compute_loss({**tiny_tokenizer()("w1", return_tensors="pt"), "labels": torch.tensor([1])}).backward()


def test_texts_may_be_an_array_or_a_column_of_a_table(tmp_path: Path) -> None:
    module = tiny_classifier(tmp_path / "start")
    texts = ["w1", "w2 w3"]
    expected = module.predict_texts(texts)
    for column in (np.array(texts), pandas.Series(texts, index=[5, 6]), tuple(texts), iter(texts)):
        assert module.predict_texts(column) == expected


def test_other_inputs_are_refused(tmp_path: Path) -> None:
    module = tiny_classifier(tmp_path / "start")
    for texts, message in (
        ("w1", "texts: one text is given; give a list of texts"),
        (["w1", None], "texts: number 1 is None, not a text"),
        ([None, "w1"], "texts: number 0 is None, not a text$"),
        ([("w1",)], r"texts: number 0 is \('w1',\), not a pair of texts$"),
        (["w1", ("w1", "w2")], r"texts: number 1 is \('w1', 'w2'\), not a text"),
        ([("w1", "w2"), "w1"], "texts: number 1 is 'w1', not a pair of texts, as the first is"),
        ({"text": ["w1"]}, "texts: a dict is given; give one of its columns"),
        (pandas.DataFrame({"text": ["w1"]}), "texts: a DataFrame is given; give one of its columns"),
        ([("w1", "w2"), ("w1",)], r"texts: number 1 is \('w1',\), not a pair of texts, as the first is"),
    ):
        with pytest.raises(ModelError, match=f"^{message}$"):
            module.predict_texts(texts)  # type: ignore[arg-type]


def test_what_is_returned_for_each_kind_of_task() -> None:
    assert named_predictions(torch.tensor([2.5]), (), "regression") == [{"score": 2.5}]
    row = torch.tensor([[0.75, 0.25]])
    probabilities = {"a": 0.75, "b": 0.25}
    single = {"label": "a", "score": 0.75, "probabilities": probabilities}
    assert named_predictions(row, ("a", "b"), "single_label_classification") == [single]
    several = {"labels": ["a"], "probabilities": probabilities}
    assert named_predictions(row, ("a", "b"), "multi_label_classification") == [several]


@given(st.lists(st.integers(0, 50), max_size=60), st.integers(1, 200))
def test_batches_hold_every_row_once_within_the_budget(lengths: list[int], budget: int) -> None:
    order = sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)
    batches = list(token_batches(order, lengths, budget))
    assert [row for batch in batches for row in batch] == order
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[row] for row in batch) <= budget


def test_the_longest_input_of_a_model() -> None:
    longest = {name: longest_input(tiny_model(name)) for name in ARCHITECTURES}
    # RoBERTa's positions begin behind the padding token, 0 here.
    assert longest == {name: 31 if name == "roberta" else 32 for name in ARCHITECTURES}
