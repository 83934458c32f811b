"""The logits of a batch by a Hugging Face classifier, without the batch's padding where that takes less time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from lightning_modules.batches.batch_rows import Batch
from lightning_modules.batches.input_limits import takes_token_types
from lightning_modules.batches.packing import Packing
from lightning_modules.batches.padding import Padding
from optimizers.named_parts import layer_modules

# What in a batch is no input of the model.
_NO_INPUTS = ("labels", "idx", "text", "features")


class BatchLogits:
    """Runs a classifier on a batch and returns logits, a row for each row of ``input_ids``.

    Args:
        module: Has the classifier as its attribute ``model``, which may be wrapped or replaced later.
        pad_token_id: The padding token of its configuration, None where it has none.

    Attributes:
        padding: What padding does to the logits.
        packing: What of the model may run without padding; None until :meth:`skip_padding`.
    """

    def __init__(self, module: Any, pad_token_id: int | None) -> None:
        self._module = module
        self._pad_token_id = pad_token_id
        self._left_out = _NO_INPUTS if takes_token_types(module.model) else (*_NO_INPUTS, "token_type_ids")
        self.padding = Padding(module.model, self.with_padding)
        self.packing: Packing | None = None
        self._always_packs = False

    def skip_padding(self, module_order: Sequence[str], always: bool) -> None:
        """Compute the tokens of a batch alone from now on, where the model allows it.

        Args:
            module_order: Names of the model's modules in the order in which they run; empty if that is unknown.
            always: Whether to do so wherever there is padding. Otherwise on a CPU alone, where it takes less time.

        Raises:
            ModelError: if it is always to be done, and the model does not allow it.
        """
        model = self._module.model
        side: Literal["right", "left"] = "right" if self.padding.is_free("right") else "left"
        self.packing, self._always_packs = Packing(model, layer_modules(model, module_order), side), always
        if always:
            self.packing.check()

    def __call__(self, batch: Batch) -> Tensor:
        """Return the logits of a batch."""
        mask = batch.get("attention_mask")
        if self.packing is None or mask is None or not (self._always_packs or self._may_pack(mask)):
            return self.with_padding(batch)
        with self.packing.of(mask, self._always_packs):
            return self.with_padding(batch)

    @staticmethod
    def _may_pack(mask: Tensor) -> bool:
        # On other devices it was not measured, and each length of text is another kernel to start; torch.compile would
        # trace the packed layers anew for most batches.
        return mask.device.type == "cpu" and not torch.compiler.is_compiling()

    def with_padding(self, batch: Batch) -> Tensor:
        """Return the logits of a batch, computed on its padding as well."""
        inputs = {key: value for key, value in batch.items() if key not in self._left_out}
        if self._pad_token_id is not None and "attention_mask" in inputs:
            # Decoders read their logits at the last token that is not the model's own padding token, whatever the mask
            # says; tokenizers may pad with another one.
            inputs["input_ids"] = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, self._pad_token_id)
        return self._module.model(**inputs).logits
