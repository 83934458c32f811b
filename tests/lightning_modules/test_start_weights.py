"""start_weights: with them in place a trained classifier is the pretrained model again, whatever its adapter."""

from __future__ import annotations

from typing import Any

import peft
import pytest
import torch
from torch.utils.data import default_collate
from transformers import BertForSequenceClassification

from lightning_modules import BottleneckConfig, SequenceClassifier
from tests.tiny_models import rows, save_tiny_bert

BATCH = default_collate(rows(8))


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny BERT, head included, none of whose weights is a constant, as norms and biases are before any training."""
    folder = save_tiny_bert(tmp_path_factory.mktemp("pretrained"))
    model = BertForSequenceClassification.from_pretrained(folder)
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter), alpha=0.05)
    model.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize(
    "adapter",
    [
        None,
        peft.LoraConfig(r=2, target_modules="all-linear"),
        peft.LoraConfig(r=2, target_modules=["query"], bias="all"),
        peft.LoraConfig(r=2, target_modules=["query", "output.dense"], use_dora=True),
        peft.IA3Config(target_modules=["key", "output.dense"], feedforward_modules=["output.dense"]),
        peft.VeraConfig(r=2, target_modules=["query", "value"]),
        peft.LoHaConfig(r=2, target_modules=["query"]),
        peft.LoKrConfig(r=2, target_modules=["query"]),
        peft.OFTConfig(oft_block_size=2, target_modules=["query"]),
        peft.BOFTConfig(boft_block_size=2, target_modules=["query"]),
        BottleneckConfig(size=4),
        BottleneckConfig(size=4, placement="houlsby", train_norms=True),
    ],
    ids=[
        "none",
        "LoRA",
        "LoRA with biases",
        "DoRA",
        "IA3",
        "VeRA",
        "LoHa",
        "LoKr",
        "OFT",
        "BOFT",
        "bottleneck",
        "bottleneck with norms",
    ],
)
def test_they_are_the_pretrained_model(pretrained: str, adapter: Any) -> None:
    expected = SequenceClassifier(pretrained).eval()
    module = SequenceClassifier(pretrained, adapter=adapter)
    moved = [parameter for parameter in module.parameters() if parameter.requires_grad]
    with torch.no_grad():
        for parameter in moved:
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
        assert not torch.allclose(module.eval()(BATCH), expected(BATCH), atol=1e-2)
        weights = module.state_dict()
        for name, value in module.start_weights().items():
            weights[name].copy_(value)
        assert torch.allclose(module(BATCH), expected(BATCH), atol=1e-6)


@pytest.mark.parametrize(
    "adapter",
    [
        peft.FourierFTConfig(n_frequency=20),
        peft.LoraConfig(r=2, init_lora_weights="pissa"),
        peft.HRAConfig(r=2),
        peft.VBLoRAConfig(r=2, num_vectors=8, vector_length=4),
    ],
)
def test_adapters_that_no_constant_turns_off_have_none(pretrained: str, adapter: Any) -> None:
    adapter.target_modules = ["query"]
    module = SequenceClassifier(pretrained, adapter=adapter)
    assert module.adapted is not None
    assert not module.adapted.identity
