"""The predictions of all processes, by row."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor
from torch.nn.functional import pad


def gathered_predictions(
    trainer: Trainer, pl_module: LightningModule, outputs: Sequence[dict[str, Tensor]], num_labels: int
) -> tuple[Tensor, Tensor]:
    """Return the numbers of the predicted rows, ascending and each once, and their predictions; alike in all processes.

    Args:
        trainer: The trainer; every process has to call.
        pl_module: The module, on whose device processes exchange their rows.
        outputs: What ``predict_step`` returned per batch: ``idx`` (batch,) and ``probabilities`` (batch, labels), or
            ``scores`` (batch,) where ``num_labels`` is 1.
        num_labels: How many labels the task has.

    Returns:
        Row numbers (rows,) int64, and predictions (rows, labels) or (rows,), float32, on the CPU.

    Raises:
        MisconfigurationException: A prediction is not finite, or has another number of classes.
    """
    shape = () if num_labels == 1 else (num_labels,)
    indices, values = [torch.empty(0, dtype=torch.int64)], [torch.empty(0, *shape)]
    for output in outputs:
        found = output["scores" if num_labels == 1 else "probabilities"].float().cpu()
        if num_labels > 1 and found.shape[-1] != num_labels:
            raise MisconfigurationException(f"predictions are of {found.shape[-1]} classes; the task has {num_labels}")
        if not found.isfinite().all():
            raise MisconfigurationException("predictions are not finite; nothing is written")
        indices.append(output["idx"].cpu())
        values.append(found)
    rows, predictions = torch.cat(indices), torch.cat(values)
    rows, predictions = (gathered(trainer, each.to(pl_module.device)).cpu() for each in (rows, predictions))
    # Distributed samplers repeat some rows, so that all processes get equally many.
    rows, order = rows.sort(stable=True)
    is_first = torch.ones_like(rows, dtype=torch.bool)
    is_first[1:] = rows[1:] != rows[:-1]
    return rows[is_first], predictions[order[is_first]]


def gathered(trainer: Trainer, rows: Tensor) -> Tensor:
    """Return the rows of all ranks, in every rank; ranks may have different numbers of rows."""
    if trainer.world_size == 1:
        return rows
    sizes = trainer.strategy.all_gather(torch.tensor([len(rows)], device=rows.device)).flatten().tolist()
    padding = [0, 0] * (rows.dim() - 1) + [0, max(sizes) - len(rows)]
    padded = trainer.strategy.all_gather(pad(rows, padding))
    return torch.cat([of_rank[:size] for of_rank, size in zip(padded, sizes, strict=True)])
