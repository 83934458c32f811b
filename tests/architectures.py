"""Sequence classifiers of a few thousand parameters, one per architecture, with random weights."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import (
    AlbertConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    BertConfig,
    DebertaV2Config,
    DistilBertConfig,
    GPT2Config,
    LlamaConfig,
    ModernBertConfig,
    PretrainedConfig,
    PreTrainedModel,
    RobertaConfig,
)

VOCAB_SIZE = 64
_COMMON = {"vocab_size": VOCAB_SIZE, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_BERT = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 32,
}


def tiny_config(architecture: str, num_layers: int = 2) -> PretrainedConfig:
    """Configuration of a tiny model; ``num_layers`` layers of hidden size 16."""
    bert = {**_COMMON, **_BERT, "num_hidden_layers": num_layers}
    if architecture == "bert":
        return BertConfig(**bert)
    if architecture == "roberta":
        return RobertaConfig(**bert)
    if architecture == "albert":
        return AlbertConfig(**bert, embedding_size=8)
    if architecture == "deberta-v2":
        return DebertaV2Config(
            **bert,
            relative_attention=True,
            pos_att_type=["p2c", "c2p"],
            position_buckets=8,
            norm_rel_ebd="layer_norm",
            share_att_key=True,
            conv_kernel_size=3,
        )
    if architecture == "modernbert":
        return ModernBertConfig(**bert, cls_token_id=1, sep_token_id=2)
    if architecture == "distilbert":
        return DistilBertConfig(
            **_COMMON, dim=16, n_layers=num_layers, n_heads=2, hidden_dim=32, max_position_embeddings=32
        )
    if architecture == "gpt2":
        return GPT2Config(**_COMMON, n_embd=16, n_layer=num_layers, n_head=2, n_positions=32)
    if architecture == "llama":
        return LlamaConfig(**bert)
    raise ValueError(f"no tiny {architecture}; allowed: {', '.join(ARCHITECTURES)}")


ARCHITECTURES = ("bert", "roberta", "distilbert", "albert", "deberta-v2", "modernbert", "gpt2")


def tiny_model(architecture: str, num_layers: int = 2, num_labels: int = 2) -> PreTrainedModel:
    """A tiny classifier in training mode."""
    config = tiny_config(architecture, num_layers)
    config.num_labels = num_labels
    return AutoModelForSequenceClassification.from_config(config).train()


def save_pretrained_backbone(folder: Path, architecture: str, num_layers: int = 2, seed: int = 0) -> str:
    """Saves a tiny backbone without head and dropout, as a pretrained model comes; returns the folder."""
    torch.manual_seed(seed)
    config = tiny_config(architecture, num_layers)
    for name, value in config.to_dict().items():
        if "drop" in name and isinstance(value, float):
            setattr(config, name, 0.0)
    AutoModel.from_config(config).save_pretrained(folder)
    return str(folder)
