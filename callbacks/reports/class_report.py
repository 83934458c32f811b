"""A table of precision, recall and F1 of every class."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from callbacks.files.file_systems import make_folder
from callbacks.files.new_file import new_file
from callbacks.files.run_folder import run_folder
from callbacks.reports.best_validation import BestValidation
from callbacks.scores.class_scores import ClassScores, averages, class_counts, class_scores, has_classes, printed_table


class ClassReport(Callback):
    """Writes and prints precision, recall and F1 of every class, with scikit-learn's values.

    Every validation writes ``class_report.csv`` in the run's folder (:func:`~callbacks.run_folder`), and so does
    ``test``, as ``class_report_test.csv``. At the end of ``fit`` the file and the printed table are about the
    validation whose weights are the best checkpoint, or about the last one where that checkpoint is of no validation of
    this fit. Under PretrainedInterpolation they are about the weights as trained. Of several evaluation sets it takes
    the first. It does nothing for a regression, and writes no file with ``fast_dev_run``.

    The module is a :class:`~lightning_modules.SequenceClassifier`, or has its ``problem_type`` and ``label_names``, and
    evaluation steps that return ``predicted`` and ``labels``.

    Example::

        Trainer(callbacks=[ClassReport()])
    """

    def __init__(self) -> None:
        self._counts: Tensor | None = None
        self._validations: BestValidation[list[ClassScores]] = BestValidation()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._validations = BestValidation()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._counts = None

    on_test_start = on_validation_start

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if dataloader_idx == 0 and has_classes(pl_module):
            counts = class_counts(outputs["predicted"], outputs["labels"], len(pl_module.label_names))  # type: ignore
            self._counts = counts if self._counts is None else self._counts + counts

    on_test_batch_end = on_validation_batch_end

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        rows = self._rows(trainer, pl_module)
        if rows and not trainer.sanity_checking:
            self._write(trainer, rows, "class_report.csv")
            if trainer.state.fn == "fit":
                self._validations.add(trainer, rows)
            else:
                self._print(trainer, pl_module, rows, "validation")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        rows = self._rows(trainer, pl_module)
        if rows:
            self._write(trainer, rows, "class_report_test.csv")
            self._print(trainer, pl_module, rows, "test")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        chosen = self._validations.chosen(trainer)
        if chosen is not None:
            which, rows = chosen
            self._write(trainer, rows, "class_report.csv")
            self._print(trainer, pl_module, rows, which)

    def _rows(self, trainer: Trainer, pl_module: LightningModule) -> list[ClassScores]:
        if self._counts is None:
            return []
        counts, self._counts = trainer.strategy.reduce(self._counts, reduce_op="sum"), None
        return class_scores(counts.tolist(), pl_module.label_names)  # type: ignore[arg-type]

    def _write(self, trainer: Trainer, rows: Sequence[ClassScores], name: str) -> None:
        folder = run_folder(trainer)  # the ranks agree on it
        if trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            make_folder(folder)
            with new_file(os.path.join(folder, name)) as stream:
                table = csv.writer(stream)
                table.writerow(["class", *ClassScores._fields[1:]])
                table.writerows(rows)

    def _print(self, trainer: Trainer, pl_module: LightningModule, rows: Sequence[ClassScores], which: str) -> None:
        if trainer.is_global_zero:
            several_labels = pl_module.problem_type == "multi_label_classification"
            print(printed_table([*rows, *averages(rows, several_labels)], f"classes ({which})"))
