"""Predictions in the order of the rows, where a loader has batched the rows by length."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from lightning_modules.trainer.trainer_callbacks import move_to_front


class RowOrder(Callback):
    """Puts predictions back into the rows' order; :class:`SequenceClassifier` adds it.

    What ``Trainer.predict`` returns, and what writers of whole epochs get, is then as if the loader had taken the rows
    in their order: a list of batches of ascending ``idx``, in a distributed run those of the process. Loaders that do
    not say that they sort by length (``batch_sampler.is_sorted_by_length``) are left alone, the user's own among them.
    """

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Before the callbacks that write predictions; Lightning puts those of a module behind all others.
        move_to_front(self, trainer)

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        loop = trainer.predict_loop
        loaders: Any = trainer.predict_dataloaders
        several = loop.num_dataloaders > 1
        predictions = loop.predictions if several else [loop.predictions]
        for loader, batches, indices in zip(
            loaders if several else [loaders], predictions, loop.epoch_batch_indices, strict=False
        ):
            is_sorted = getattr(getattr(loader, "batch_sampler", None), "is_sorted_by_length", False)
            if batches and is_sorted and getattr(pl_module, "restores_row_order", False):
                batches[:], indices[:] = in_row_order(batches, indices)


def in_row_order(
    batches: list[dict[str, Tensor]], indices: list[list[int]]
) -> tuple[list[dict[str, Tensor]], list[list[int]]]:
    """Return batches of predictions, and their rows' places in the data set, in the order of the rows.

    Args:
        batches: What ``predict_step`` returned: ``idx`` (batch,) and tensors whose first dimension is the row.
        indices: The places of each batch's rows; empty where Lightning has not kept them.

    Returns:
        As many batches, of about equal size.

    Example::

        >>> in_row_order([{"idx": torch.tensor([2])}, {"idx": torch.tensor([0, 1])}], [[2], [0, 1]])
        ([{'idx': tensor([0, 1])}, {'idx': tensor([2])}], [[0, 1], [2]])
    """
    order = torch.cat([batch["idx"] for batch in batches]).argsort(stable=True)
    columns = {name: torch.cat([batch[name] for batch in batches])[order] for name in batches[0]}
    cut = {name: values.tensor_split(len(batches)) for name, values in columns.items()}
    in_order = [{name: parts[number] for name, parts in cut.items()} for number in range(len(batches))]
    places = [place for of_batch in indices for place in of_batch]
    kept = [[places[row] for row in rows] for rows in order.tensor_split(len(batches))] if places else []
    return in_order, kept
