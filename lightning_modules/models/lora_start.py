"""LoRA that takes its start out of the base weights (PiSSA, OLoRA), saved as the LoRA that adds to the original ones.

PiSSA and OLoRA start from a part :math:`s B_0 A_0` of a weight :math:`W`, which they leave as
:math:`W_r = W - s B_0 A_0`. Once trained, :math:`W_r + s B A = W + s [B, -B_0] [A; A_0]`: an ordinary LoRA of twice the
rank. Read back as it is, :math:`W_r` would have to be made again, and by a random SVD it is another one.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lightning_modules.models.bottleneck_adapter import CONFIG_FILE, WEIGHTS_FILE

_FROM_BASE = ("pissa", "olora")
_FROM_DATA = ("eva", "corda", "lora_ga")


def check_start(config: Any) -> None:
    """Refuse a start that peft computes from activations or gradients of the data.

    Args:
        config: A configuration of peft. For ``eva`` peft 0.21.2 would go on from random numbers without a word.

    Raises:
        ValueError: if the start is of that kind.
    """
    start = _start_of(config)
    if start.startswith(_FROM_DATA):
        raise ValueError(
            f"init_lora_weights: {start} needs activations of the data before training, which nothing here computes; "
            "leave it out, or choose gaussian, pissa, olora or orthogonal"
        )


def lora_start(model: nn.Module, config: Any) -> dict[str, Tensor]:
    """Return :math:`A_0` and :math:`B_0` of a fresh adapter by name; empty where it adds to the original weights.

    Args:
        model: The model with the adapter.
        config: The configuration it was made from.
    """
    if not _start_of(config).startswith(_FROM_BASE):
        return {}
    names = [name for name, _ in model.named_parameters() if ".lora_A." in name or ".lora_B." in name]
    return {name: model.get_parameter(name).detach().clone() for name in names}


def add_to_original(folder: str | Path, start: dict[str, Tensor]) -> None:
    """Rewrite a saved adapter as the ordinary LoRA that adds to the original weights.

    Args:
        folder: What peft's ``save_pretrained`` has written.
        start: What :func:`lora_start` returned.
    """
    path, weights = Path(folder) / CONFIG_FILE, load_file(Path(folder) / WEIGHTS_FILE)
    for name, first in start.items():
        saved = name.replace(".default.", ".")  # peft leaves the adapter's name out
        is_b, first = ".lora_B." in name, first.to(weights[saved])
        weights[saved] = torch.cat([weights[saved], -first if is_b else first], dim=int(is_b)).contiguous()
    config = json.loads(path.read_text(encoding="utf-8"))
    # The scale is alpha / r, or alpha / sqrt(r) with rank stabilization.
    growth = 2**0.5 if config.get("use_rslora") else 2
    config |= {"r": 2 * config["r"], "lora_alpha": growth * config["lora_alpha"], "init_lora_weights": True}
    config["rank_pattern"] = {part: 2 * rank for part, rank in (config.get("rank_pattern") or {}).items()}
    config["alpha_pattern"] = {part: growth * alpha for part, alpha in (config.get("alpha_pattern") or {}).items()}
    save_file(weights, Path(folder) / WEIGHTS_FILE, metadata={"format": "pt"})
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _start_of(config: Any) -> str:
    return str(getattr(config, "init_lora_weights", "")).lower()
