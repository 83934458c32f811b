"""DeBERTa-v2's attention without the relative positions that a batch is too short to have."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

from optimizers.replaced_attribute import replaced_attribute

# What is used of transformers' attention of DeBERTa-v2, which is not documented (transformers 5.23).
_USED = ("disentangled_attention_bias", "pos_ebd_size", "position_buckets")


def relative_attentions(model: nn.Module) -> list[Any]:
    """Return the modules of a model that multiply every token with all relative positions: of DeBERTa-v2 and -v3."""
    family = sys.modules.get("transformers.models.deberta_v2.modeling_deberta_v2")
    kind = getattr(family, "DisentangledSelfAttention", ())
    found = [each for each in model.modules() if isinstance(each, kind)]
    return [each for each in found if all(hasattr(each, name) for name in _USED)]


@contextmanager
def positions_within(attentions: Sequence[Any], width: int) -> Iterator[None]:
    """Context in which attention multiplies with the positions alone that tokens of a batch can have to one another.

    transformers multiplies each token with the embeddings of all distances, 512 in the published models, and then
    chooses those of the distances that there are, fewer than twice the width of the batch. Scores and gradients are the
    same up to rounding, dropout masks to the bit. A batch so wide that distances share an embedding is left alone.

    Args:
        attentions: The modules (:func:`relative_attentions`).
        width: Number of tokens of the longest text of the batch, with its padding.
    """
    with ExitStack() as replaced:
        for each in attentions:
            if width <= _exact_distances(each):
                bias = partial(_bias, each, width)
                replaced.enter_context(replaced_attribute(each, "disentangled_attention_bias", bias))
        yield


def _exact_distances(attention: Any) -> int:
    """Return below which distance each has an embedding of its own."""
    return int(attention.position_buckets // 2 if attention.position_buckets > 0 else attention.pos_ebd_size)


def _bias(
    attention: Any, reach: int, query: Tensor, key: Tensor, distances: Tensor, embeddings: Tensor, scale: int
) -> Tensor:
    span = attention.pos_ebd_size
    nearest = embeddings[span - reach : span + reach]
    with replaced_attribute(attention, "pos_ebd_size", reach):
        return type(attention).disentangled_attention_bias(attention, query, key, distances, nearest, scale)
