"""A classifier's calibration error and temperature, after every validation of a fit."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from callbacks.reports.best_validation import BestValidation
from callbacks.scores.class_scores import has_classes
from callbacks.scores.gathered_predictions import gathered
from callbacks.scores.temperature import CalibrationResult, calibration


class Calibration(Callback):
    """Measures the calibration of a classifier and finds its temperature (Guo et al. 2017, arXiv 1706.04599).

    After every validation of a ``fit`` it sets ``module.temperature``, which every checkpoint holds, and logs
    ``val/ece`` and ``val/ece_calibrated``, the expected calibration error without and with it: the mean difference of
    confidence and share of right predictions over 15 bins of confidence. Where a text has several labels, every pair of
    text and label counts, with the label's probability. At the end it says both for the weights of the best checkpoint,
    or for those of the last validation where the best checkpoint is of no validation of this fit.

    The temperature is fitted to the validation set, so that ``val/ece_calibrated`` is a little too good. Predictions
    use it only where the module has ``calibrated_predictions``. Several ranks are measured together, the first of
    several evaluation sets alone. It does nothing for a regression.

    The module is a :class:`~lightning_modules.SequenceClassifier`, or has its ``problem_type``, and a validation step
    that returns ``outputs`` (logits) and ``labels``.

    Example::

        Trainer(callbacks=[Calibration()])
    """

    def __init__(self) -> None:
        self._outputs: list[Tensor] = []
        self._labels: list[Tensor] = []
        self._validations: BestValidation[CalibrationResult] = BestValidation()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._validations = BestValidation()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._outputs, self._labels = [], []

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        is_measured = trainer.state.fn == "fit" and not trainer.sanity_checking and dataloader_idx == 0
        if is_measured and has_classes(pl_module):
            self._outputs.append(outputs["outputs"].detach())
            self._labels.append(outputs["labels"])

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._outputs:
            return
        outputs, labels = (gathered(trainer, torch.cat(each)) for each in (self._outputs, self._labels))
        self._outputs, self._labels = [], []
        result = calibration(outputs.cpu(), labels.cpu())
        pl_module.temperature = result.temperature  # type: ignore[assignment]
        for name, value in (("val/ece", result.before), ("val/ece_calibrated", result.after)):
            pl_module.log(name, value, sync_dist=True)
        self._validations.add(trainer, result)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        chosen = self._validations.chosen(trainer)
        if chosen is not None:
            which, result = chosen
            # The temperature is the likeliest; the error of 15 bins is rough on few texts and need not fall with it.
            is_no_help = result.after > result.before
            advice = ": it does not lower this error, leave calibrated_predictions off or validate on more texts"
            rank_zero_info(
                f"calibration ({which}): expected calibration error {result.before:.4f}, {result.after:.4f} with "
                f"temperature {result.temperature:.3f}, on {result.texts} validation texts"
                f"{advice if is_no_help else ''}"
            )
