"""What padding does to the logits of a model, and on which side it does nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from lightning_modules.batches.batch_rows import Batch, names_by_token
from lightning_modules.batches.input_limits import longest_input
from lightning_modules.errors import ModelError, first_line
from lightning_modules.models.logits_rounding import equal_but_for_rounding
from lightning_modules.models.tiny_input import padded_texts, tiny_input
from optimizers.call_order import evaluating

# Tokens of the text that is tried, and the width that it is padded to: beyond the 64 tokens of Reformer's chunks.
_TEXT, _WIDTH = 5, 72


class Padding:
    """Whether a model gives a text the same logits however far it is padded, found out by running it.

    A mask does not make padding free in every model: ConvBERT's convolution and FNet's Fourier transform read it, and
    an encoder whose positions are counted from the first column gets others if the padding comes first.

    Args:
        model: A Hugging Face classifier.
        forward: Runs it on a batch and returns logits. Default: the model itself.

    Example::

        Padding(bert).side_for("left")  # "right"
    """

    def __init__(self, model: nn.Module, forward: Callable[[Batch], Tensor] | None = None) -> None:
        self._model: Any = model
        self._forward = forward or (lambda batch: model(**batch).logits)
        self._found: dict[str, bool] = {}
        # Where batches' padding is moved to, None to leave it; until a datamodule is known it may be on either side.
        self._moved_to: str | None = None
        self._is_decided = False

    @property
    def matters(self) -> bool:
        """Whether logits depend on how far a text is padded, on whichever side."""
        return not self.is_free("right") and not self.is_free("left")

    def side_for(self, own: str) -> str:
        """Return the side on which texts are to be padded: ``own``, unless only the other is free."""
        other = "left" if own == "right" else "right"
        return other if not self.is_free(own) and self.is_free(other) else own

    def only_free_side(self) -> str | None:
        """Return the side on which padding is free; None if it is on both or on neither."""
        free = [side for side in ("right", "left") if self.is_free(side)]
        return free[0] if len(free) == 1 else None

    def refuse_where_it_matters(self, option: str) -> None:
        """Refuse an option that pads texts to other lengths and promises the same logits.

        Raises:
            ModelError: if padding changes them.
        """
        if self.matters:
            raise ModelError(
                f"{option}: the logits of a {type(self._model).__name__} depend on how far a text is padded; "
                f"leave {option} out"
            )

    def decide_side(self, data: Any) -> None:
        """Decide on which side batches of a datamodule are to be padded, see :meth:`side_for_data`."""
        self._moved_to, self._is_decided = self.side_for_data(data), True

    def on_free_side(self, batch: Batch) -> Batch:
        """Return a batch padded on the side where padding is free."""
        if not self._is_decided:
            self._moved_to, self._is_decided = self.only_free_side(), True
        return batch if self._moved_to is None or "attention_mask" not in batch else padded_on(batch, self._moved_to)

    def side_for_data(self, data: Any) -> str | None:
        """Return the side to which the padding of a datamodule's texts has to be moved; say so, and where none helps.

        Args:
            data: A datamodule; read is what it has of ``tokenizer``, ``max_length`` and ``pad_to_multiple_of``.
        """
        tokenizer = getattr(data, "tokenizer", None)
        own = tokenizer.padding_side if isinstance(tokenizer, PreTrainedTokenizerBase) else None
        side = self.only_free_side() if own is None else self.side_for(own)
        name = type(self._model).__name__
        if own is not None and side != own:
            rank_zero_info(f"texts are padded on the {side}: padding on the {own} changes the logits of a {name}")
        length, multiple = getattr(data, "max_length", None), getattr(data, "pad_to_multiple_of", 1)
        if self.matters and not (length is not None and multiple >= length):
            rank_zero_warn(
                f"the logits of a {name} depend on how far a text is padded, and so on batch sizes and on "
                f"group_by_length; data.pad_to_multiple_of: {length or 'max_length'} pads all texts alike"
            )
        return side if side != own else None

    def is_free(self, side: str) -> bool:
        """Return whether a text has the same logits alone and, with padding on a side, beside a longer text."""
        if side not in self._found:
            self._found[side] = self._try(side)
        return self._found[side]

    def _try(self, side: str) -> bool:
        device = next(self._model.parameters()).device
        text = tiny_input(self._model.config, _TEXT, device)
        width = min(_WIDTH, longest_input(self._model))
        if width <= _TEXT:
            return True
        padded = padded_texts(self._model, (_TEXT, width), width, side)
        try:
            with evaluating(self._model):
                alone, found = self._forward(text), self._forward(padded)[:1]
                return equal_but_for_rounding(alone, found, self._model, lambda: self._forward(text))
        except Exception as error:
            # It may need more than tokens, or kernels of another device; whether it can train is seen when it does.
            rank_zero_info(f"{type(self._model).__name__}: its padding is not checked: {first_line(error)}")
            return True


def padded_on(batch: Batch, side: str) -> Batch:
    """Return a batch whose rows have their padding on one side, wherever it was.

    Args:
        batch: Tensors whose first dimension is the example; those as wide as ``attention_mask`` are moved.
        side: Where the padding goes.

    Example::

        >>> import torch
        >>> batch = {"input_ids": torch.tensor([[0, 5, 6]]), "attention_mask": torch.tensor([[0, 1, 1]])}
        >>> padded_on(batch, "right")["input_ids"]
        tensor([[5, 6, 0]])
    """
    mask = batch["attention_mask"]
    order = mask.argsort(dim=1, descending=side == "right", stable=True)

    def moved(tensor: Tensor) -> Tensor:
        return tensor.take_along_dim(order.reshape(*order.shape, *[1] * (tensor.ndim - 2)), dim=1)

    by_token = names_by_token(batch)
    return {name: moved(tensor) if name in by_token else tensor for name, tensor in batch.items()}
