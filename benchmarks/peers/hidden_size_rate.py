"""The learning rate that tinker-cookbook recommended from a model's hidden size."""

from __future__ import annotations


def hidden_size_rate(hidden_size: int, lora: bool = False, exponent: float = 0.781) -> float:
    """Return 5e-5 (2000 / hidden size)^exponent, ten times that for LoRA.

    The formula of ``get_lr`` in tinker-cookbook's ``hyperparam_utils`` until it became a table of its models, and of
    "LoRA Without Regret" (thinkingmachines.ai/blog/lora). The exponent was fitted to a family: 0.781 for Llama, 0.0775
    for Qwen, where it says next to nothing; there is none for encoders.
    """
    return 5e-5 * (10 if lora else 1) * (2000 / hidden_size) ** exponent
