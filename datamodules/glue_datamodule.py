"""LightningDataModule of the GLUE tasks."""

import datasets
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only

from datamodules.batches.collator import Collator
from datamodules.errors import DataError
from datamodules.generated.synthetic_source import SyntheticSource
from datamodules.glue.glue_folder_source import FolderSource
from datamodules.glue.glue_hub_source import HubSource
from datamodules.glue.glue_source import GLUESource
from datamodules.glue.glue_tasks import find_task
from datamodules.glue.row_selection import sample, thin_out_minority
from datamodules.labels.label_statistics import LabelStatistics, label_statistics
from datamodules.tokenized_datamodule import TokenizedDataModule, check_at_least

SOURCES = ("hub", "folder", "synthetic")


class GLUEDataModule(TokenizedDataModule):
    """One task of GLUE: from the Hugging Face hub, from a folder of the official files, or generated.

    Batches are dicts of tensors: ``input_ids``, ``attention_mask``, ``token_type_ids`` where the tokenizer gives them,
    each (batch, tokens); ``labels`` (batch,), int64 classes or float32 scores; ``idx`` (batch,), each row's number
    within its split, from 0. Rows are padded to the longest of their batch, tokenized once per node and cached on disk.
    ``label_statistics`` has the training labels' counts, or their mean and deviation, after ``setup("fit")``.

    GLUE does not publish the labels of its test splits, so that their batches have no ``labels``: ``predict`` works
    with every source, ``test`` needs generated data or a folder whose test files have a label column. mnli has two
    validation and two test loaders, matched and mismatched; ax has only a test split.

    Args:
        task_name: One of cola, sst2, mrpc, qqp, stsb, mnli, qnli, rte, wnli, ax.
        source: Source of the rows: ``hub`` (nyu-mll/glue), ``folder`` (needs ``data_dir``) or ``synthetic``
            (generated). Default: the folder if ``data_dir`` is given, otherwise the hub.
        data_dir: Folder with GLUE's official TSV files, ``<data_dir>/SST-2/train.tsv`` and so on, or one task's own
            folder. If given, it is read whatever ``source`` says.
        tokenizer: Name of the tokenizer: on the hub, a folder, or ``offline:all-MiniLM-L6-v2``. Default: the model's.
        max_length: Maximum number of tokens per row; longer rows are truncated.
        train_batch_size: Rows per training batch and process.
        eval_batch_size: Rows per validation, test and prediction batch and process. Default: as many as have 2048
            tokens on a CPU, 16384 elsewhere; 64 where rows are taken in their order.
        pad_to_multiple_of: Round the padded length up to a multiple of this, such as 8 for GPUs; ``max_length`` gives
            all batches one shape, which suits TPUs. Default: no rounding.
        num_workers: Processes that load batches beside each training process.
        max_train_samples: Train on this many rows, chosen at random. Default: all.
        max_eval_samples: Validate and test on this many random rows of each split; predict all rows. Default: all.
        sample_seed: Seed of the random choices of rows.
        minority_keep_fraction: Fraction of the rarest class to keep, before ``max_train_samples``. Default: all of it.
        group_by_length: Put training rows of similar length into the same batch, which saves padding.
        cache_dir: Folder for tokenized rows. Default: ``linetune`` inside the folder where `datasets` keeps its own.
        synthetic_seed: Seed of generated rows.

    Raises:
        DataError: An option is out of range (in the constructor), or the data cannot be used (when it is read).

    Example::

        data = GLUEDataModule("mrpc", source="synthetic", max_train_samples=500)
    """

    def __init__(
        self,
        task_name: str,
        source: str | None = None,
        data_dir: str | None = None,
        tokenizer: str | None = None,
        max_length: int = 128,
        train_batch_size: int = 32,
        eval_batch_size: int | None = None,
        pad_to_multiple_of: int | None = None,
        num_workers: int = 0,
        max_train_samples: int | None = None,
        max_eval_samples: int | None = None,
        sample_seed: int = 0,
        minority_keep_fraction: float | None = None,
        group_by_length: bool = False,
        cache_dir: str | None = None,
        synthetic_seed: int = 0,
    ) -> None:
        super().__init__(
            tokenizer,
            max_length,
            train_batch_size,
            eval_batch_size,
            pad_to_multiple_of,
            num_workers,
            group_by_length,
            cache_dir,
        )
        self.task = find_task(task_name)
        if source is not None and source not in SOURCES:
            raise DataError(f"unknown source {source!r}; the sources are {', '.join(SOURCES)}")
        if source == "folder" and data_dir is None:
            raise DataError("source=folder needs data_dir, the folder with the official GLUE files")
        check_at_least(1, max_train_samples=max_train_samples, max_eval_samples=max_eval_samples)
        check_at_least(0, sample_seed=sample_seed)
        if minority_keep_fraction is not None:
            if not 0 < minority_keep_fraction <= 1:
                raise DataError(f"minority_keep_fraction {minority_keep_fraction} is out of range: above 0, up to 1")
            if self.task.is_regression:
                raise DataError(f"minority_keep_fraction needs classes; {task_name} has scores")
        self.save_hyperparameters()
        self._name_paths()
        self.source_name = "folder" if data_dir is not None else source or "hub"
        self.data_dir = data_dir
        self.max_train_samples = max_train_samples
        self.max_eval_samples = max_eval_samples
        self.sample_seed = sample_seed
        self.minority_keep_fraction = minority_keep_fraction
        self.synthetic_seed = synthetic_seed
        self.label_statistics: LabelStatistics | None = None
        self._source: GLUESource | None = None
        self._row_counts: dict[str, int] = {}  # of the splits that were read

    @property
    def task_name(self) -> str:
        """Name of the task."""
        return self.task.name

    @property
    def num_labels(self) -> int:
        """Number of classes; 1 for regression."""
        return self.task.num_labels

    @property
    def metrics(self) -> list[str]:
        """Names of GLUE's metrics for the task, among accuracy, f1, matthews, pearson and spearman."""
        return list(self.task.metrics)

    @property
    def label_names(self) -> list[str]:
        """Names of the classes in label order; empty for regression."""
        return list(self.task.label_names)

    @property
    def eval_set_names(self) -> list[str]:
        """Names of the evaluation sets, one per loader: matched and mismatched for mnli, otherwise one empty name."""
        return list(self.task.eval_set_names)

    def setup(self, stage: str | None = None) -> None:
        """Open the tokenized splits of a stage, or make them; Lightning calls it in every process.

        Args:
            stage: fit, validate, test or predict. Default: all stages.

        Raises:
            DataError: The task has no split for the stage, or its labels are not published.
        """
        self.datasets = self._open(stage)
        for rows in self.datasets_for("train"):
            self.label_statistics = label_statistics(rows, self.num_labels, self.task.is_regression)
        self._log_row_selection()
        if stage == "test":
            for name, rows in self.datasets.items():
                if "label" not in rows.column_names:
                    raise DataError(
                        f"the labels of {self.task_name}'s {name.partition('/')[2]} split are not published, so test "
                        "has nothing to compare with: validate scores the validation split, predict makes the "
                        "leaderboard's file"
                    )

    def _open(self, stage: str | None) -> dict[str, datasets.Dataset]:
        return {f"{purpose}/{split}": self._load(split, purpose) for split, purpose in self._needed(stage)}

    def _needed(self, stage: str | None) -> list[tuple[str, str]]:
        """Return the splits that a stage reads, each with its purpose: train, validation, test or predict."""
        task = self.task
        fit = [("train", "train"), *((split, "validation") for split in task.validation_splits)]
        needed = {
            "fit": fit,
            "validate": fit[1:],
            "test": [(split, "test") for split in task.test_splits],
            "predict": [(split, "predict") for split in task.test_splits],
        }
        if task.name == "ax":
            if stage in ("fit", "validate"):
                raise DataError("ax has only a test split: train and validate on mnli, then test or predict with ax")
            needed["fit"] = []
        if stage is not None:
            return needed[stage]
        return [*needed["fit"], *needed["test"], *needed["predict"]]

    def _load(self, split: str, purpose: str) -> datasets.Dataset:
        if self._source is None:
            self._source = self._make_source()
        source = self._source
        limit, fraction = self._limits(purpose)
        key = {
            "rows": source.fingerprint(split),
            "task": self.task_name,
            "split": split,
            "limit": limit,
            "fraction": fraction,
            # The seed matters only if rows are chosen.
            "seed": self.sample_seed if limit or fraction else None,
        }

        def read() -> datasets.Dataset:
            rows = source.read(split)
            self._row_counts[split] = len(rows)
            rows = rows.add_column("idx", range(len(rows)))
            if fraction is not None:
                rows = rows.select(thin_out_minority(rows["label"], fraction, self.sample_seed))
            return rows.select(sample(len(rows), limit, self.sample_seed))

        return self.tokenized(read, self.task.text_columns, key, description=f"{self.task_name} {split}")

    def _limits(self, purpose: str) -> tuple[int | None, float | None]:
        """Return the maximum number of rows and the kept fraction of the rarest class for a purpose."""
        limit = {"train": self.max_train_samples, "predict": None}.get(purpose, self.max_eval_samples)
        return limit, self.minority_keep_fraction if purpose == "train" else None

    @rank_zero_only
    def _log_row_selection(self) -> None:
        selections = []
        for name, rows in self.datasets.items():
            purpose, _, split = name.partition("/")
            if any(self._limits(purpose)) and self._source is not None:
                total = self._row_counts.get(split) or len(self._source.read(split))
                selections += [f"{len(rows)} of {total} rows of {split}"] if len(rows) < total else []
        if selections:
            rank_zero_info(f"{self.task_name} ({self.source_name}): {', '.join(selections)}")

    def _make_source(self) -> GLUESource:
        if self.data_dir is not None:
            return FolderSource(self.task, self.data_dir)
        if self.source_name == "synthetic":
            return SyntheticSource(self.task, self.synthetic_seed)
        return HubSource(self.task)

    def _collator(self, purpose: str) -> Collator:
        return Collator.for_tokenizer(self.tokenizer, self.pad_to_multiple_of, self.task.is_regression)
