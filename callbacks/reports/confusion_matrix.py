"""A confusion matrix as a figure among TensorBoard's images."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from callbacks.trainer.curve_axis import curve_end

# Above these numbers of classes, numbers in the cells and names at the edges could not be read.
_MOST_WITH_NUMBERS = 20
_MOST_WITH_NAMES = 100


class ConfusionMatrix(Callback):
    """Draws which classes are taken for which, after every validation, as ``confusion_matrix`` in TensorBoard's images.

    Rows are the true classes, columns the predicted ones; colours are shares of a row, numbers are texts. Of several
    evaluation sets it takes the first. Nothing is drawn for a regression, or where a text has several labels, which
    have no such matrix. It needs the extra ``studies`` (matplotlib), and says so once where it is missing.

    The module is a :class:`~lightning_modules.SequenceClassifier`, or has its ``problem_type`` and ``label_names``, and
    evaluation steps that return ``predicted`` and ``labels``.

    Attributes:
        matrix: The counts of the last validation, int64 (classes, classes).

    Example::

        Trainer(callbacks=[ConfusionMatrix()], logger=TensorBoardLogger("runs"))
    """

    def __init__(self) -> None:
        self.matrix: Tensor | None = None
        self._draws = False
        self._counts: Tensor | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        is_single_label = getattr(pl_module, "problem_type", "") == "single_label_classification"
        self._draws = is_single_label and any(isinstance(logger, TensorBoardLogger) for logger in trainer.loggers)
        if self._draws and stage in ("fit", "validate") and find_spec("matplotlib") is None:
            self._draws = False
            rank_zero_warn(
                'ConfusionMatrix draws nothing: it needs the extra "studies": pip install "linetune[studies]"'
            )

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._counts = None

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if self._draws and dataloader_idx == 0 and not trainer.sanity_checking:
            classes = len(pl_module.label_names)  # type: ignore[arg-type]
            places = outputs["labels"] * classes + outputs["predicted"]
            counts = torch.bincount(places, minlength=classes**2).view(classes, classes)
            self._counts = counts if self._counts is None else self._counts + counts

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._counts is None:
            return
        self.matrix, self._counts = trainer.strategy.reduce(self._counts, reduce_op="sum").cpu(), None
        if trainer.is_global_zero:
            image = drawn(self.matrix.numpy(), pl_module.label_names)  # type: ignore[arg-type]
            for logger in trainer.loggers:
                if isinstance(logger, TensorBoardLogger):
                    logger.experiment.add_image("confusion_matrix", image, curve_end(trainer), dataformats="HWC")


def drawn(matrix: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Return a picture of a confusion matrix, uint8 (height, width, 3).

    Args:
        matrix: Number of texts of each true class (row) with each predicted one (column).
        names: Names of the classes.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    count = len(names)
    side = min(max(4.0, 1.5 + 0.45 * count), 16.0)
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.add_subplot()
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    if count <= _MOST_WITH_NAMES:
        size = 9 if count <= _MOST_WITH_NUMBERS else 5
        # A dollar sign would begin a formula.
        texts = [name.replace("$", r"\$") for name in names]
        axes.set_xticks(range(count), texts, rotation=90, fontsize=size)
        axes.set_yticks(range(count), texts, fontsize=size)
    if count <= _MOST_WITH_NUMBERS:
        for row, column in np.ndindex(count, count):
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, str(matrix[row, column]), ha="center", va="center", fontsize=8, color=colour)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[:, :, :3]
