"""Predictions beside the columns of the file that was predicted."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor

from callbacks.files.file_systems import exists
from callbacks.files.new_file import free_name, make_writable, new_file
from callbacks.files.run_folder import run_folder, shown_path
from callbacks.scores.gathered_predictions import gathered_predictions

SUFFIXES = (".csv", ".tsv", ".jsonl")
ROWS_AT_ONCE = 1000


class PredictionWriter(BasePredictionWriter):
    """Writes a file with all rows and columns of the predicted file, in their order, and the predictions beside them.

    ``prediction`` is the label's name, the list of the names of probability above 0.5 (in CSV as JSON), or the
    score. ``probability_NAME`` is the probability of each label; in JSON lines they are a dict, ``probabilities``. A
    column of the input of such a name stays, and ours gets a ``_`` behind its name. Rows without a prediction have
    empty cells. In a distributed run rank 0 writes the rows of all ranks. The file appears whole or not at all.

    The rows are the datamodule's (``trainer.datamodule.predict_rows``, a ``datasets.Dataset`` of the input's columns),
    labels and kind of task those of the model's configuration. The module's ``predict_step`` must return ``idx``
    (batch,), the rows' places in ``predict_rows``, and ``probabilities`` (batch, labels) or ``scores`` (batch,).

    Args:
        file: The file to write: ``.csv``, ``.tsv`` or ``.jsonl``; must not exist. Default: ``predictions.csv`` in the
            run's folder (:func:`~callbacks.run_folder`); a second one there is ``predictions-v1.csv``.

    Raises:
        MisconfigurationException: The datamodule has no ``predict_rows``, or the file cannot be written. This is
            checked before the first prediction.
        MisconfigurationException: A prediction is not finite, or has another number of labels than the model.

    Example::

        Trainer(callbacks=[PredictionWriter("predicted.jsonl")]).predict(model, datamodule)
    """

    def __init__(self, file: str | None = None) -> None:
        super().__init__(write_interval="epoch")
        if file is not None and Path(file).suffix not in SUFFIXES:
            raise MisconfigurationException(f"PredictionWriter: file: {file!r} has to end in {', '.join(SUFFIXES)}")
        self.file = file

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if stage != "predict":
            return
        datamodule = getattr(trainer, "datamodule", None)
        if not hasattr(datamodule, "predict_rows"):
            raise MisconfigurationException(
                f"PredictionWriter needs a datamodule with predict_rows, not {type(datamodule).__name__}"
            )
        file = self._path(trainer)
        if trainer.is_global_zero:
            if self.file is not None and exists(file):
                raise MisconfigurationException(f"PredictionWriter: {file} exists; name a new file")
            make_writable(os.path.dirname(file) or ".", "PredictionWriter")

    def write_on_epoch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        predictions: Sequence[Any],
        batch_indices: Sequence[Any],
    ) -> None:
        """Write the file; Lightning calls it in every process.

        Args:
            trainer: The trainer.
            pl_module: The module.
            predictions: Outputs of ``predict_step`` per batch.
            batch_indices: Not used, because the outputs contain the rows' numbers.
        """
        config: Any = pl_module.model.config  # type: ignore[union-attr]
        indices, values = gathered_predictions(trainer, pl_module, predictions, config.num_labels)
        file = self._path(trainer)
        if not trainer.is_global_zero:
            return
        rows = trainer.datamodule.predict_rows  # type: ignore[attr-defined]
        names = [str(config.id2label[label]) for label in range(config.num_labels)]
        of_row = predicted_by_row(indices, values, names, config.problem_type)
        with new_file(file) as stream:
            if file.endswith(".jsonl"):
                _write_json_lines(stream, rows, of_row, names)
            else:
                _write_table(stream, rows, of_row, names, delimiter="\t" if file.endswith(".tsv") else ",")
        print(f"predictions       {shown_path(file)} ({len(indices)} rows)")
        if len(indices) < len(rows):
            rank_zero_warn(f"{file}: {len(rows) - len(indices)} of {len(rows)} rows have no prediction")

    def _path(self, trainer: Trainer) -> str:
        folder = run_folder(trainer)  # every rank has to ask
        return (
            free_name(os.path.join(folder, "predictions.csv")) if self.file is None else os.path.expanduser(self.file)
        )


def predicted_by_row(
    indices: Tensor, values: Tensor, names: Sequence[str], problem_type: str | None
) -> Callable[[int], tuple[Any, list[float]] | None]:
    """Return a function from a row's number to its prediction and its probabilities; None for a row without."""
    found = dict(zip(indices.tolist(), values.tolist(), strict=True))

    def of_row(row: int) -> tuple[Any, list[float]] | None:
        value = found.get(row)
        if value is None or isinstance(value, float):
            return None if value is None else (_rounded(value), [])
        if problem_type == "multi_label_classification":
            chosen: Any = [name for name, probability in zip(names, value, strict=True) if probability > 0.5]
        else:
            chosen = names[value.index(max(value))]
        return chosen, [_rounded(probability) for probability in value]

    return of_row


def free_column(name: str, taken: Sequence[str]) -> str:
    """Return a name with as many ``_`` behind it as it takes to be no column yet."""
    while name in taken:
        name += "_"
    return name


def _rounded(value: float) -> float:
    # As many digits as a float32 has.
    return float(f"{value:.7g}")


def _numbered(rows: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    for start in range(0, len(rows), ROWS_AT_ONCE):
        batch = rows[start : start + ROWS_AT_ONCE]
        for place in range(min(ROWS_AT_ONCE, len(rows) - start)):
            yield start + place, {name: batch[name][place] for name in rows.column_names}


def _write_json_lines(stream: TextIO, rows: Any, of_row: Callable, names: Sequence[str]) -> None:
    prediction, probabilities = (free_column(name, rows.column_names) for name in ("prediction", "probabilities"))
    for number, row in _numbered(rows):
        found = of_row(number)
        added = {prediction: None if found is None else found[0]}
        if found is not None and found[1]:
            added[probabilities] = dict(zip(names, found[1], strict=True))
        stream.write(json.dumps(row | added, ensure_ascii=False, default=str) + "\n")


def _write_table(stream: TextIO, rows: Any, of_row: Callable, names: Sequence[str], delimiter: str) -> None:
    own = ["prediction"] if len(names) == 1 else ["prediction", *(f"probability_{name}" for name in names)]
    header = [*rows.column_names, *(free_column(name, rows.column_names) for name in own)]
    stream.write(_line(header, delimiter))
    for number, row in _numbered(rows):
        found = of_row(number)
        cells = [""] * len(own) if found is None else [found[0], *found[1]]
        stream.write(_line([*row.values(), *cells], delimiter))


def _line(values: Sequence[Any], delimiter: str) -> str:
    cells = [
        json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, list | dict) else value
        for value in values
    ]
    line = io.StringIO(newline="")
    # With "\n" as the end of a line, csv would leave a "\r" in a text without quotes.
    csv.writer(line, delimiter=delimiter, lineterminator="\r\n").writerow(cells)
    return line.getvalue()[:-2] + "\n"
