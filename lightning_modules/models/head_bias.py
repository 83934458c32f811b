"""The bias of a new classification head, by which its first predictions are the frequencies of the labels."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn

from optimizers.shards import is_sharded


@torch.no_grad()
def start_head_at(model: nn.Module, logits: Tensor, new_parameter_names: Collection[str]) -> None:
    """Set the bias of a model's last layer to constant logits, if the layer is new and has not been trained.

    A head that starts at zero first learns how frequent each label is. The bias moves by no more than the learning rate
    in a step, so the encoder does most of that: where all labels are rare, its output becomes the same for all texts,
    and stays so for hundreds of steps.

    Args:
        model: The model; nothing happens if its last layer has no bias, as in GPT-2 and Llama.
        logits: What to predict at first, (labels,).
        new_parameter_names: Names of its parameters that came from no checkpoint.
    """
    biases = [
        parameter
        for name, parameter in model.named_parameters()
        if name in new_parameter_names and name.endswith("bias") and parameter.shape == logits.shape
    ]
    # The last one, where the head's hidden layer happens to be as wide as there are labels. A fit shards a model after
    # its head was set here, so that a sharded one was trained before.
    if biases and not is_sharded(biases[-1]) and not biases[-1].any():
        biases[-1].copy_(logits)
