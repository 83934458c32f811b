"""Check that a forward pass goes through an adapter's layers, not around them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lightning_modules.errors import ModelError, first_line
from lightning_modules.tiny_input import tiny_input
from optimizers.call_order import call_order, evaluating


def check_adapter_acts(model: Any) -> None:
    """Refuse an adapter of peft on a layer whose weight is read without the layer being called.

    Jamba's ``dt_proj`` and LayoutLMv3's ``rel_pos_bias`` are of this kind: an adapter on them changes nothing until it
    is merged, and everything afterwards. A layer that does not run and is not read either, of images for instance, may
    have one.

    Args:
        model: A model that runs on a text without its adapter, wrapped by peft.

    Raises:
        ModelError: if there is such a layer, or the model does not run with the adapter.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    text = tiny_input(model.config, device=next(model.parameters()).device)
    try:
        called = set(call_order(model, lambda: model(**text)))
    except Exception as error:
        # Whatever an adapter breaks: the model ran without it.
        raise ModelError(f"adapter: the model does not run with it: {first_line(error)}") from error
    around = {
        name: module.get_base_layer()
        for name, module in model.named_modules()
        if isinstance(module, BaseTunerLayer) and name not in called
    }
    if not around or not _changes_logits(model, text, list(around.values())):
        return
    read = sorted({name.rpartition(".")[2] for name, layer in around.items() if _changes_logits(model, text, [layer])})
    raise ModelError(
        f"adapter: a {type(model.get_base_model()).__name__} reads the weights of {', '.join(read)} without calling "
        "these layers, so that an adapter on them acts only once merged; leave them out of target_modules"
    )


def _changes_logits(model: Any, text: dict[str, Tensor], layers: list[nn.Module]) -> bool:
    """Return whether other weights in some layers give other logits."""
    weights = [parameter for layer in layers for parameter in layer.parameters()]
    with evaluating(model):
        before = model(**text).logits
        kept = [weight.detach().clone() for weight in weights]
        try:
            for weight in weights:
                # Not the same everywhere: a softmax over a table of biases would not show it.
                weight.add_(torch.randn_like(weight))
            return not torch.equal(model(**text).logits, before)
        finally:
            for weight, value in zip(weights, kept, strict=True):
                weight.copy_(value)
