"""Checks of an adapter by running its model: that its layers are called, and that padding stays without effect."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lightning_modules.errors import ModelError, first_line
from lightning_modules.models.tiny_input import tiny_input
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


def check_prompts(model: Any, kind: str) -> None:
    """Refuse virtual tokens with which a text's logits change with its padding.

    Decoders read their logits at the last token that is not padding, which they do not find among embeddings, as which
    peft hands over a prompt and the text (peft 0.21.2, transformers 5.23.0: the last token, padding or not).

    Args:
        model: A model with virtual tokens, wrapped by peft.
        kind: What peft calls this kind of adapter.

    Raises:
        ModelError: if they change.
    """
    config = model.config
    pad, end = (getattr(config, f"{name}_token_id", None) for name in ("pad", "eos"))
    pad, end = (value if isinstance(value, int) else 0 for value in (pad, end))
    words = [token for token in range(8) if token not in (pad, end)][:4]
    ids = torch.tensor([[*words, end, pad, pad, pad]], device=next(model.parameters()).device)
    mask = torch.ones_like(ids)
    mask[:, -3:] = 0
    with evaluating(model):
        alone = model(input_ids=ids[:, :-3], attention_mask=mask[:, :-3]).logits
        padded = model(input_ids=ids, attention_mask=mask).logits
    if not torch.allclose(alone, padded, rtol=1e-3, atol=1e-3 * float(alone.abs().max())):
        raise ModelError(
            f"adapter: with {kind} the logits of this model change with the padding beside a text, since it reads them "
            "at the last token; choose peft.LoraConfig"
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
