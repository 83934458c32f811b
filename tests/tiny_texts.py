"""A tokenizer of a few words, texts made of them, and classifiers of a few thousand parameters that take them."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerFast

from lightning_modules import SequenceClassifier
from tests.architectures import tiny_config

SPECIAL = ["[PAD]", "[CLS]", "[SEP]", "[UNK]"]
WORDS = [f"w{number}" for number in range(40)]
LABELS = {1: (), 2: ("bad", "good"), 3: ("low", "middle", "high")}
# Those whose forward pass takes the type of a token.
TAKES_TYPES = ("bert", "deberta-v2", "albert")


def tiny_tokenizer(architecture: str = "bert", max_length: int = 24) -> PreTrainedTokenizerFast:
    """A tokenizer of whole words, with the ids that `tests.architectures` gives to special tokens."""
    vocabulary = {token: number for number, token in enumerate([*SPECIAL, *WORDS])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    types = ["token_type_ids"] if architecture in TAKES_TYPES else []
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        unk_token="[UNK]",
        model_max_length=max_length,
        model_input_names=["input_ids", *types, "attention_mask"],
    )


def tiny_texts(count: int, longest: int = 12, seed: int = 0) -> list[str]:
    """Texts of 1 to ``longest`` known words."""
    chance = random.Random(seed)
    return [" ".join(chance.choices(WORDS, k=chance.randint(1, longest))) for _ in range(count)]


def tiny_classifier(
    folder: Path, architecture: str = "bert", num_labels: int = 2, **arguments: Any
) -> SequenceClassifier:
    """A classifier of random weights, large enough for its predictions to differ, from a folder with a tokenizer."""
    torch.manual_seed(0)
    config = tiny_config(architecture)
    config.num_labels = num_labels
    model = AutoModelForSequenceClassification.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.3)
    model.save_pretrained(folder)
    tiny_tokenizer(architecture).save_pretrained(folder)
    return SequenceClassifier(str(folder), num_labels=num_labels, label_names=LABELS[num_labels], **arguments)
