"""Early stopping by whatever metric the task is scored by."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.exceptions import MisconfigurationException


class MainMetricStopping(EarlyStopping):
    """Stops a run when the task's main metric has not improved for a number of validations, and says so.

    The main metric and whether more of it is better are the module's ``main_metric`` and ``main_metric_mode``: for a
    :class:`~lightning_modules.SequenceClassifier` the first of its metrics. Other modules are watched by ``val/loss``.

    Args:
        patience: How many validations may pass without an improvement.
        min_delta: What counts as an improvement.

    Raises:
        MisconfigurationException: there is no validation.

    Example::

        Trainer(max_epochs=50, callbacks=[MainMetricStopping(patience=3)])
    """

    def __init__(self, patience: int = 3, min_delta: float = 0.0) -> None:
        super().__init__("val/loss", patience=patience, min_delta=min_delta)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            mode: Any = getattr(pl_module, "main_metric_mode", "min")
            # Lightning turns the signs of both round where less is better.
            if mode != self.mode:
                self.min_delta, self.best_score = -self.min_delta, -self.best_score
            self.monitor, self.mode = str(getattr(pl_module, "main_metric", "val/loss")), mode
        super().setup(trainer, pl_module, stage)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.enable_validation:
            raise MisconfigurationException(
                "MainMetricStopping: there is no validation to stop by; give validation data, or leave it out"
            )

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.stopping_reason_message:
            rank_zero_info(f"stopped early after epoch {self.stopped_epoch}: {self.stopping_reason_message}")
