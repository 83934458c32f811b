"""A progress bar that fits a terminal of 80 columns."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar


class NarrowProgressBar(TQDMProgressBar):
    """Lightning's progress bar with the metrics in front of time and speed, which a narrow terminal cuts off.

    What is left of 80 columns holds the loss, the step size and a validation metric; the logger's version and the
    ``train/`` of names are left out.

    Example::

        Trainer(callbacks=[NarrowProgressBar()])
    """

    BAR_FORMAT = "{l_bar}{bar}| {n_fmt}/{total_fmt} [<{remaining}{postfix}] {elapsed}, {rate_noinv_fmt}"

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        metrics = super().get_metrics(trainer, pl_module)
        return {name.removeprefix("train/"): value for name, value in metrics.items() if name != "v_num"}
