"""A short text of made-up tokens, to find out how a model runs before there is a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from lightning_modules.errors import first_line
from optimizers import call_order

LENGTH = 8


def tiny_input(config: Any, length: int = LENGTH, device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """Return ``input_ids`` and ``attention_mask`` of one text: different tokens, and the end token at the end.

    Args:
        config: The model's configuration. Padding, begin and end tokens stand nowhere but where they belong: BART and
            its like read their logits at the end token and take texts with equally many of them alone.
        length: Number of tokens.
        device: Where the tensors are made.

    Example::

        logits = model(**tiny_input(model.config)).logits  # (1, labels)
    """
    text = config.get_text_config()
    names = [f"{name}_token_id" for name in ("pad", "bos", "eos", "cls", "sep", "decoder_start")]
    found = [getattr(text, name, None) for name in names]
    # Images and the like have tokens of their own.
    found += [value for name, value in config.to_dict().items() if name.endswith(("_token_id", "_token_index"))]
    # Llama 3's end tokens are a list.
    special = {token for value in found for token in (value if isinstance(value, list) else [value])}
    size = getattr(text, "vocab_size", None) or 1000
    ordinary = [token for token in range(min(size, length + 64)) if token not in special]
    ids = [ordinary[place % len(ordinary)] for place in range(length)]
    end = getattr(text, "eos_token_id", None)
    end = end[0] if isinstance(end, list) and end else end
    if isinstance(end, int) and 0 <= end < size:
        ids[-1] = end
    return {
        "input_ids": torch.tensor([ids], device=device),
        "attention_mask": torch.ones(1, len(ids), dtype=torch.long, device=device),
    }


def padded_texts(model: Any, lengths: Sequence[int], width: int, side: str) -> dict[str, Tensor]:
    """Return ``input_ids`` and ``attention_mask`` of several texts, padded.

    Args:
        model: A Hugging Face model.
        lengths: Number of tokens of each text, up to ``width``.
        width: Number of columns.
        side: On which side the padding is: ``right`` or ``left``.
    """
    device = next(model.parameters()).device
    pad = getattr(model.config.get_text_config(), "pad_token_id", None) or 0
    rows = []
    for length in lengths:
        room = (0, width - length) if side == "right" else (width - length, 0)
        text = tiny_input(model.config, length, device)
        rows.append(
            {name: nn.functional.pad(row, room, value=pad * (name == "input_ids")) for name, row in text.items()}
        )
    return {name: torch.cat([row[name] for row in rows]) for name in rows[0]}


def module_order(model: Any) -> tuple[str, ...]:
    """Return the order in which a Hugging Face model's modules run, by which it is divided into parts.

    Args:
        model: The model, perhaps with an adapter.

    Returns:
        What :func:`~optimizers.named_parts` takes; nothing, and a line in the log, if the model does not run on a text
        alone.
    """
    device = next(model.parameters()).device
    try:
        return call_order(model, lambda: model(**tiny_input(model.config, device=device)))
    except Exception as error:
        # It may need images, or kernels of another device; whether it can train is seen when it does.
        rank_zero_info(f"{type(model).__name__}: parts by registration; it did not run on a text: {first_line(error)}")
        return ()
