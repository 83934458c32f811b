"""Positions of a model in half precision are those of transformers' own half-precision models."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader
from transformers import AutoModelForSequenceClassification

from lightning_modules import SequenceClassifier
from tests.families import family_batch, family_model

TYPES = {"bf16-true": torch.bfloat16, "16-true": torch.float16}


@pytest.mark.parametrize("precision", TYPES)
def test_a_long_text_has_the_logits_of_from_pretrained_in_half_precision(precision: str, tmp_path: Path) -> None:
    """Lightning 2.6.6 converts by ``module.to``, which rounds the frequencies of rotary positions as well."""
    family_model("llama", max_position_embeddings=4096, initializer_range=0.5).save_pretrained(tmp_path)
    batch = family_batch(rows=2, width=1500)
    module = SequenceClassifier(str(tmp_path), num_labels=3, skip_padding=False)
    trainer = Trainer(accelerator="cpu", precision=precision, logger=False, enable_progress_bar=False)
    loader = DataLoader([batch], batch_size=None)
    for _ in range(2):  # the second time the module is in half precision before it is converted
        (predicted,) = trainer.predict(module, loader)
        reference = AutoModelForSequenceClassification.from_pretrained(tmp_path, dtype=TYPES[precision]).eval()
        with torch.no_grad():
            expected = reference(**batch).logits.float().softmax(dim=1)
            rounded = copy.deepcopy(reference).to(TYPES[precision])(**batch).logits.float().softmax(dim=1)
        torch.testing.assert_close(predicted["probabilities"].float(), expected, rtol=0, atol=1e-6)
        assert (rounded - expected).abs().max() > 1e-3


# The mask of OpenAI's GPT has to be of the type of what it is multiplied with.
@pytest.mark.parametrize("family", ["modernbert", "gemma3_text", "gptj", "ctrl", "openai-gpt", "reformer"])
def test_every_kind_of_computed_buffer_works_beside_half_precision(family: str, tmp_path: Path) -> None:
    family_model(family).save_pretrained(tmp_path)
    module = SequenceClassifier(str(tmp_path)).eval()
    before = {name: buffer.clone() for name, buffer in module.model.named_buffers()}
    module.to(torch.bfloat16)
    stored = module.model.state_dict()
    for name, buffer in module.model.named_buffers():
        expected = before[name]
        if name in stored:
            expected = expected.to(buffer.dtype)
        assert torch.equal(buffer.to(expected.dtype), expected), name
    assert {p.dtype for p in module.parameters()} == {torch.bfloat16}
    with torch.no_grad():
        assert module.model(**family_batch()).logits.dtype == torch.bfloat16


def test_a_buffer_of_two_names_stays_exact_under_both_and_meta_tensors_are_left(tmp_path: Path) -> None:
    family_model("llama").save_pretrained(tmp_path)
    module = SequenceClassifier(str(tmp_path))
    shared = torch.rand(4)
    for name in ("one", "other"):
        module.model.register_buffer(name, shared, persistent=False)
    module.to(torch.bfloat16)
    assert torch.equal(module.model.one, shared)
    assert torch.equal(module.model.other, shared)
    assert module.to("meta", torch.float16).model.one.is_meta


@pytest.mark.parametrize("name", ["half", "bfloat16", "double", "float"])
def test_each_of_torchs_conversions_keeps_positions_exact(name: str, tmp_path: Path) -> None:
    family_model("llama").save_pretrained(tmp_path)
    module = SequenceClassifier(str(tmp_path))
    exact = module.model.model.rotary_emb.inv_freq.clone()
    assert not torch.equal(exact.bfloat16().float(), exact)
    converted = getattr(module, name)()
    assert converted is module
    assert torch.equal(module.model.model.rotary_emb.inv_freq.double(), exact.double())
    dtype = getattr(torch.zeros(1), name)().dtype
    assert {parameter.dtype for parameter in module.parameters()} == {dtype} == {module.dtype}
