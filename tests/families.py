"""One tiny classifier of every model type that transformers classifies texts with, and what may be asked of all.

``FAMILIES`` are the types of transformers' own mapping of AutoModelForSequenceClassification; ``UNBUILT`` names those
of them that no tiny model can be made of, and why. A test over all families takes its models from here.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import CONFIG_MAPPING, AutoModelForSequenceClassification, PretrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES

VOCAB_SIZE = 100
PAD, BEGIN, END = 0, 1, 2

# Settings by the names that configurations have for them; each configuration takes those that it knows.
_SIZES: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "pad_token_id": PAD,
    "bos_token_id": BEGIN,
    "eos_token_id": END,
    "hidden_size": 16,
    "d_model": 16,
    "n_embd": 16,
    "dim": 16,
    "emb_dim": 16,
    "embedding_size": 16,
    "num_hidden_layers": 2,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "num_layers": 2,
    "num_decoder_layers": 2,
    "n_layer": 2,
    "n_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "num_heads": 2,
    "n_head": 2,
    "n_heads": 2,
    "head_dim": 8,
    "d_kv": 8,
    "intermediate_size": 32,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "d_ff": 32,
    "hidden_dim": 32,
    "d_inner": 32,
    "max_position_embeddings": 48,
    "n_positions": 48,
    "max_seq_len": 48,
    "attention_window": 8,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
    "q_lora_rank": 8,
    "kv_lora_rank": 8,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 4,
    "v_head_dim": 8,
    "tie_word_embeddings": False,
}


def _sizes_of(family: str) -> dict[str, Any]:
    """Return those of the sizes that a family's configuration has."""
    config_class = CONFIG_MAPPING[family]
    aliases = getattr(config_class, "attribute_map", {})
    known = {*config_class().to_dict(), *aliases}
    chosen = {name: value for name, value in _SIZES.items() if name in known}
    return {name: value for name, value in chosen.items() if aliases.get(name) not in chosen}


_VISION = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 8,
    "patch_size": 4,
}
_SIGLIP = _VISION | {"model_type": "siglip_vision_model", "vision_use_head": False}
_QWEN_LAYERS = {
    "layer_types": ["linear_attention", "full_attention"],
    "linear_key_head_dim": 4,
    "linear_value_head_dim": 4,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
}
# What a family needs besides, or otherwise.
_OWN: dict[str, dict[str, Any]] = {
    "axk1": {"head_dim": 4},
    "axk2": {"index_head_dim": 8, "index_n_heads": 2},
    "canine": {
        "num_hash_buckets": 128,
        "max_position_embeddings": 128,
        "downsampling_rate": 2,
        "local_transformer_stride": 8,
    },
    "cohere_compass_text": {
        "layer_types": ["full_attention"] * 2,
        "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}},
    },
    "ctrl": {"dff": 32},
    "deepseek_v3": {"head_dim": 4, "first_k_dense_replace": 1},
    "funnel": {"block_sizes": [1, 1], "d_head": 8},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "hidden_size": 16, "num_heads": 2},
    "gptj": {"rotary_dim": 4},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "mamba_d_state": 4, "mamba_dt_rank": 4},
    "layoutlm": {"max_2d_position_embeddings": 8},
    "layoutlmv3": {
        "coordinate_size": 2,
        "shape_size": 4,
        "max_2d_position_embeddings": 8,
        "input_size": 8,
        "patch_size": 4,
        "visual_embed": False,
        "rel_2d_pos_bins": 8,
        "rel_pos_bins": 8,
    },
    "lilt": {"hidden_size": 24, "max_2d_position_embeddings": 8},
    "luke": {"entity_vocab_size": 10, "entity_emb_size": 8},
    "markuplm": {
        "max_depth": 4,
        "max_xpath_tag_unit_embeddings": 8,
        "max_xpath_subs_unit_embeddings": 8,
        "tag_pad_id": 6,
        "subs_pad_id": 6,
        "xpath_unit_hidden_size": 8,
    },
    "mistral4": {"head_dim": 4},
    "mobilebert": {"intra_bottleneck_size": 16, "embedding_size": 16, "num_feedforward_networks": 1},
    "opt": {"ffn_dim": 32, "word_embed_proj_dim": 16},
    "perceiver": {
        "num_latents": 4,
        "d_latents": 16,
        "num_self_attends_per_block": 2,
        "num_self_attention_heads": 2,
        "num_cross_attention_heads": 2,
    },
    "reformer": {
        "axial_pos_embds": False,
        "attn_layers": ["local", "lsh"],
        "feed_forward_size": 32,
        "attention_head_size": 8,
        "local_attn_chunk_length": 4,
        "lsh_attn_chunk_length": 4,
        "num_buckets": 2,
    },
    "rembert": {"input_embedding_size": 16, "output_embedding_size": 16},
    "roc_bert": {
        "pronunciation_embed_dim": 4,
        "pronunciation_vocab_size": 10,
        "shape_embed_dim": 4,
        "shape_vocab_size": 10,
    },
    "t5": {"decoder_start_token_id": 0},
    "tapas": {"type_vocab_sizes": [3, 8, 8, 2, 8, 8, 10]},
    "xmod": {"default_language": "en_XX"},
    "gemma3": {"text_config": _sizes_of("gemma3_text"), "vision_config": _SIGLIP, "mm_tokens_per_image": 4},
    "modernvbert": {"text_config": _sizes_of("modernbert"), "vision_config": _SIGLIP, "image_token_id": 98},
    "qwen3_5": {
        "text_config": _sizes_of("qwen3_5_text") | _QWEN_LAYERS,
        "vision_config": {
            "hidden_size": 16,
            "intermediate_size": 32,
            "depth": 1,
            "num_heads": 2,
            "out_hidden_size": 16,
        },
    },
    "qwen3_5_text": _QWEN_LAYERS,
    "qwen3_next": _QWEN_LAYERS,
    "t5gemma": {"encoder": _sizes_of("gemma2"), "decoder": _sizes_of("gemma2")},
    "t5gemma2": {
        "encoder": {
            "text_config": _sizes_of("gemma3_text"),
            "vision_config": _SIGLIP,
            "mm_tokens_per_image": 4,
        },
        "decoder": _sizes_of("gemma3_text"),
    },
    "ultravbert": {"text_config": _sizes_of("ultrabert"), "vision_config": _SIGLIP, "image_token_id": 98},
    "zamba": {
        "layers_block_type": ["linear_attention", "hybrid"],
        "attention_hidden_size": 32,
        "attention_head_dim": 16,
        "mamba_d_state": 4,
        "mamba_dt_rank": 4,
    },
    "zamba2": {
        "layers_block_type": ["linear_attention", "hybrid"],
        "mamba_d_state": 4,
        "n_mamba_heads": 2,
        "chunk_size": 8,
        "attention_hidden_size": 32,
        "adapter_rank": 4,
    },
}
UNBUILT: dict[str, str] = {
    "layoutlmv2": "needs the package detectron2",
}
FAMILIES = tuple(sorted(set(MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES) - set(UNBUILT)))


def family_config(family: str, **settings: Any) -> PretrainedConfig:
    """Return the configuration of a tiny classifier with three labels."""
    nested = _OWN.get(family, {})
    own = {} if "text_config" in nested or "encoder" in nested else _sizes_of(family)
    return CONFIG_MAPPING[family](**(own | {"num_labels": 3} | nested | settings))


def family_model(family: str, seed: int = 0, **settings: Any) -> PreTrainedModel:
    """Return a tiny classifier with random weights, in training mode.

    Matrices are six times what a new model's are: with the latter, logits of a tiny model hardly depend on its text.
    """
    torch.manual_seed(seed)
    model = AutoModelForSequenceClassification.from_config(family_config(family, **settings)).train()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(6)
    return model


def family_batch(rows: int = 4, width: int = 8) -> dict[str, Tensor]:
    """Return token ids and a mask of texts of different lengths, padded on the right, each ending in the end token."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.tensor([width - 3 * (row % 2) for row in range(rows)])
    ids = torch.randint(10, 90, (rows, width), generator=generator)
    mask = torch.arange(width) < lengths[:, None]
    ids[torch.arange(rows), lengths - 1] = END
    return {"input_ids": ids.where(mask, PAD), "attention_mask": mask.long()}
