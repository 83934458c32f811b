"""Long texts as several windows: one logit row per text."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_modules.batches.batch_rows import Batch


def mean_per_text(logits: Tensor, batch: Batch) -> Tensor:
    """Return the mean logits of each text's windows.

    Args:
        logits: Float32 (windows, labels).
        batch: With ``text`` (windows,), the place of each window's text within the batch, and ``labels`` or ``idx``,
            which have one row per text.

    Returns:
        (texts, labels).

    Example::

        >>> mean_per_text(torch.tensor([[1.0], [3.0], [5.0]]), {"text": torch.tensor([0, 0, 1])})
        tensor([[2.],
                [5.]])
    """
    place = batch["text"]
    per_text = batch.get("labels", batch.get("idx"))
    texts = int(place.max()) + 1 if per_text is None else per_text.shape[0]
    with torch.autocast(logits.device.type, enabled=False):
        sums = logits.new_zeros(texts, logits.shape[1]).index_add(0, place, logits)
        windows = place.new_zeros(texts).index_add(0, place, torch.ones_like(place))
        return sums / windows.unsqueeze(1)
