"""Files for the GLUE leaderboard, from the predictions of a run."""

import os
from collections.abc import Sequence
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor

from callbacks.files.new_file import make_writable, new_file
from callbacks.files.run_folder import run_folder
from callbacks.scores.gathered_predictions import gathered_predictions

MAX_SCORE = 5.0


class SubmissionWriter(BasePredictionWriter):
    """Writes predictions as TSV files for the GLUE leaderboard.

    There is one file per test split, with the leaderboard's file name (``SST-2.tsv``; ``MNLI-m.tsv`` and
    ``MNLI-mm.tsv``): a header, then one line per row of the split with its number and its prediction, in the split's
    order. Predictions are label words (mnli, qnli, rte, ax), label numbers (the other tasks), or scores from 0 to 5
    with three decimals (stsb). In a distributed run rank 0 writes the predictions of all ranks, each row once. Files
    are written atomically.

    The task is that of the trainer's datamodule (``trainer.datamodule.task``). The module's ``predict_step`` must
    return a dict: ``idx`` (batch,), the rows' numbers within their split, and ``probabilities`` (batch, classes), or
    ``scores`` (batch,) for regression.

    Args:
        output_dir: Folder for the files. Default: ``submission`` in the run's folder (:func:`~callbacks.run_folder`).

    Raises:
        MisconfigurationException: The datamodule has no GLUE task, or the folder cannot be written to. This is checked
            before the first prediction.
        MisconfigurationException: A prediction is not finite, or has another number of classes than the task.

    Example::

        Trainer(callbacks=[SubmissionWriter("submission")]).predict(model, GLUEDataModule("sst2"))
    """

    def __init__(self, output_dir: str | None = None) -> None:
        super().__init__(write_interval="epoch")
        self.output_dir = output_dir

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if stage != "predict":
            return
        datamodule = getattr(trainer, "datamodule", None)
        if not hasattr(getattr(datamodule, "task", None), "submission_files"):
            raise MisconfigurationException(
                f"SubmissionWriter needs a datamodule with a GLUE task, not {type(datamodule).__name__}: predict with "
                "GLUEDataModule"
            )
        folder = self._folder(trainer)
        if trainer.is_global_zero:
            make_writable(folder, "SubmissionWriter")

    def write_on_epoch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        predictions: Sequence[Any],
        batch_indices: Sequence[Any],
    ) -> None:
        """Write the files of all test splits; Lightning calls it in every process.

        Args:
            trainer: The trainer.
            pl_module: The module.
            predictions: Outputs of ``predict_step`` per batch; with several loaders a list of such lists.
            batch_indices: Not used, because the outputs contain the rows' numbers.
        """
        task = trainer.datamodule.task  # type: ignore[attr-defined]
        loaders: Any = trainer.predict_dataloaders
        several = len(task.test_splits) > 1
        folder = self._folder(trainer)
        for number, split in enumerate(task.test_splits):
            outputs = predictions if not several else predictions[number] if predictions else []
            indices, values = gathered_predictions(trainer, pl_module, outputs, task.num_labels)
            if trainer.is_global_zero:
                file = os.path.join(folder, task.submission_files[split])
                rows = _rows(indices, values, task.label_texts)
                _write(file, rows)
                rank_zero_info(f"wrote {len(rows)} predictions to {file}")
                size = len((loaders[number] if several else loaders).dataset)
                if len(rows) < size:
                    rank_zero_warn(f"{file} has {len(rows)} of {size} rows; the leaderboard takes only complete files")

    def _folder(self, trainer: Trainer) -> str:
        if self.output_dir is not None:
            return os.path.expanduser(self.output_dir)
        return os.path.join(run_folder(trainer), "submission")


def _rows(indices: Tensor, values: Tensor, label_texts: Sequence[str]) -> list[tuple[int, str]]:
    """Return each row's number and prediction as text."""
    if label_texts:
        texts = [label_texts[label] for label in values.argmax(-1).tolist()]
    else:
        texts = [f"{min(max(score, 0.0), MAX_SCORE):.3f}" for score in values.tolist()]
    return list(zip(indices.tolist(), texts, strict=True))


def _write(file: str, rows: Sequence[tuple[int, str]]) -> None:
    with new_file(file) as stream:
        stream.write("index\tprediction\n")
        stream.writelines(f"{index}\t{prediction}\n" for index, prediction in rows)
