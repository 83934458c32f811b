"""LightningDataModule of the user's own texts."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from functools import partial
from typing import Literal

import datasets
import numpy as np
import pyarrow as pa
from lightning.pytorch.utilities import rank_zero_info

from datamodules.batches.collator import Collator
from datamodules.errors import DataError
from datamodules.labels.label_kind import LabelKind, ProblemType, checked_names
from datamodules.labels.label_statistics import LabelStatistics, label_statistics
from datamodules.sources.arrow_columns import column_of
from datamodules.sources.dataset_source import DatasetSource
from datamodules.sources.file_source import Quoting
from datamodules.sources.row_cache import stored
from datamodules.sources.text_splits import TextSplits
from datamodules.texts.column_choice import check_columns, choose_label_columns, choose_text_columns
from datamodules.texts.split_report import report_splits
from datamodules.texts.text_rows import TEXT_COLUMNS, rows_to_tokenize
from datamodules.texts.text_task import TaskOptions, TextTask, find_task, task_line
from datamodules.texts.validation_split import validation_rows
from datamodules.tokenized_datamodule import TokenizedDataModule, check_at_least

METRICS = {
    "single_label_classification": ("accuracy", "macro_f1"),
    "multi_label_classification": ("micro_f1", "macro_f1", "average_precision"),
    "regression": ("pearson", "spearman"),
}
VAL_SPLIT = "validation"
# To be raised when the same content is read in another way, so that older files are not used.
READING_VERSION = 3


class TextDataModule(TokenizedDataModule):
    """Labelled texts of the user: CSV, TSV, JSON lines or Parquet files, or a data set of `datasets`.

    Columns, kind of task and label names that are found are saved in checkpoints. docs/own_data.md has examples.

    Args:
        train_file: Training rows, as a path, a glob pattern, or several: .csv, .tsv, .jsonl (.ndjson, .json), .parquet.
        val_file: Validation rows. Default: ``val_fraction`` of the training rows.
        test_file: Rows to test on.
        predict_file: Rows to predict; they need no labels.
        dataset: Name of a data set on the hub, or a folder of ``save_to_disk``, in place of files.
        dataset_config: Configuration of the data set on the hub.
        train_split: Name of its training split.
        val_split: Name of its validation split. Default: ``validation``; where it has none, rows are held out.
        test_split: Name of its test split.
        predict_split: Name of the split to predict. Default: that of ``test_split``.
        text_columns: One or two text columns; two are tokenized as a pair. Default: the only possible one, or ``text``.
        label_column: Column of the labels, or several columns of 0 and 1. Default: the only possible one, or ``label``.
        problem_type: Kind of task, one of transformers' three. Default: found from the labels.
        label_names: Names of the labels in the order of their ids. Default: those that are found, sorted.
        metrics: Names of the metrics, the main one first. Default: by the kind of task.
        val_fraction: Share of the training rows to hold out where there are no validation rows, equal in each class.
        split_seed: Seed of the choice of these rows.
        drop_empty: Whether to leave out rows with an empty text or, but for prediction, no label. Default: refuse them.
        delimiter: Character between the cells of CSV files. Default: a comma, and a tab in .tsv files.
        quoting: How cells are quoted: ``minimal`` (RFC 4180), or ``none``, where quotes are ordinary characters.
        long_texts: What to do with texts above ``max_length`` tokens: ``truncate`` them, or overlapping ``windows``.
        max_windows: Maximum number of windows of a text; the rest is cut off.
        window_overlap: Tokens that a window shares with the one before it.
        tokenizer: Name of the tokenizer: on the hub, a folder, or ``offline:all-MiniLM-L6-v2``. Default: the model's.
        max_length: Maximum number of tokens per row.
        train_batch_size: Texts per training batch and process.
        eval_batch_size: Texts per evaluation batch and process. Default: as many as have 2048 tokens on a CPU.
        pad_to_multiple_of: Round the padded length up to a multiple of this, such as 8 for GPUs. Default: no rounding.
        num_workers: Processes that load batches beside each training process.
        group_by_length: Put training texts of similar length into the same batch, which saves padding.
        cache_dir: Folder for tokenized rows. Default: ``linetune`` in the cache folder of `datasets`.

    Raises:
        DataError: An option is out of range (in the constructor), or the data cannot be used (when it is read).
    """

    def __init__(
        self,
        train_file: list[str] | str | None = None,
        val_file: list[str] | str | None = None,
        test_file: list[str] | str | None = None,
        predict_file: list[str] | str | None = None,
        dataset: str | None = None,
        dataset_config: str | None = None,
        train_split: str = "train",
        val_split: str = VAL_SPLIT,
        test_split: str = "test",
        predict_split: str | None = None,
        text_columns: list[str] | str | None = None,
        label_column: list[str] | str | None = None,
        problem_type: ProblemType | None = None,
        label_names: list[str | int] | None = None,
        metrics: list[str] | None = None,
        val_fraction: float = 0.1,
        split_seed: int = 0,
        drop_empty: bool = False,
        delimiter: str | None = None,
        quoting: Quoting = "minimal",
        long_texts: Literal["truncate", "windows"] = "truncate",
        max_windows: int = 8,
        window_overlap: int = 32,
        tokenizer: str | None = None,
        max_length: int = 128,
        train_batch_size: int = 32,
        eval_batch_size: int | None = None,
        pad_to_multiple_of: int | None = None,
        num_workers: int = 0,
        group_by_length: bool = False,
        cache_dir: str | None = None,
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
        check_at_least(1, max_windows=max_windows)
        check_at_least(0, split_seed=split_seed, window_overlap=window_overlap)
        if not 0 < val_fraction < 1:
            raise DataError(f"val_fraction {val_fraction} is out of range: between 0 and 1")
        for name, value, allowed in (
            ("problem_type", problem_type, (None, *METRICS)),
            ("quoting", quoting, ("minimal", "none")),
            ("long_texts", long_texts, ("truncate", "windows")),
        ):
            if value not in allowed:
                raise DataError(f"{name} {value!r} is not allowed; one of {', '.join(filter(None, allowed))}")
        self._splits = TextSplits(
            {"train": train_file, "val": val_file, "test": test_file, "predict": predict_file},
            dataset,
            dataset_config,
            {"train": train_split, "val": val_split, "test": test_split, "predict": predict_split or test_split},
            delimiter,
            quoting,
        )
        names = checked_names(label_names)
        self.save_hyperparameters()
        self._name_paths()
        self.hparams["label_names"] = names
        self.val_fraction, self.split_seed = val_fraction, split_seed
        self.long_texts, self.max_windows, self.window_overlap = long_texts, max_windows, window_overlap
        self.label_statistics: LabelStatistics | None = None
        self.predict_rows: datasets.Dataset | None = None
        self.options = TaskOptions(
            [text_columns] if isinstance(text_columns, str) else text_columns,
            [label_column] if isinstance(label_column, str) else label_column,
            problem_type,
            names,
            drop_empty,
        )
        self._given_metrics = metrics
        self._found_task: TextTask | None = None
        self._reads_pairs = False  # of the rows that were opened last

    # Facts for the model

    @property
    def problem_type(self) -> ProblemType:
        """Kind of the task in transformers' words."""
        return self._kind().problem_type

    @property
    def num_labels(self) -> int:
        """Number of labels; 1 for regression."""
        return self._kind().num_labels

    @property
    def label_names(self) -> list[str]:
        """Names of the labels in the order of their ids; empty for regression."""
        return list(self._kind().label_names)

    @property
    def metrics(self) -> list[str]:
        """Names of the metrics."""
        return list(self._given_metrics or METRICS[self.problem_type])

    @property
    def eval_set_names(self) -> list[str]:
        """One empty name: there is one evaluation set."""
        return [""]

    def _keeps_more(self) -> str:
        """Return which options keep more of long texts, of those that the texts and the tokenizer allow."""
        options = ["a larger max_windows"] if self.long_texts == "windows" else []
        if self.max_length < self.tokenizer.model_max_length:
            options.append("a larger max_length")
        is_fast = getattr(self.tokenizer, "backend_tokenizer", None) is not None
        if self.long_texts == "truncate" and is_fast and not self._reads_pairs:
            options.append("long_texts=windows")
        return " or ".join(options)

    def _kind(self) -> LabelKind:
        # What a checkpoint brought along needs no training rows.
        if self.options.problem_type == "regression":
            return LabelKind("regression", ())
        if self.options.problem_type is not None and self.options.label_names is not None:
            return LabelKind(self.options.problem_type, tuple(self.options.label_names))
        return self._task().kind

    # Stages

    def setup(self, stage: str | None = None) -> None:
        """Open the tokenized splits of a stage, or make them; Lightning calls it in every process.

        Args:
            stage: fit, validate, test or predict. Default: all for which there are rows.

        Raises:
            DataError: The data cannot be used.
        """
        self.datasets = self._open(stage)
        for rows in self.datasets_for("train"):
            self.label_statistics = label_statistics(rows, self.num_labels, self.problem_type == "regression")
        limit = f"{self.max_length} tokens"
        cuts = self.long_texts == "truncate"
        report_splits(
            {name.partition("/")[0]: rows for name, rows in self.datasets.items()},
            self.label_names if stage != "predict" else [],
            limit if cuts else f"{self.max_windows} windows of {limit}",
            self._keeps_more(),
            held_out="validation/train" in self.datasets,
        )

    def _open(self, stage: str | None) -> dict[str, datasets.Dataset]:
        opened: dict[str, datasets.Dataset] = {}
        if stage in ("fit", "validate") or (stage is None and self._splits.source("train") is not None):
            if self._splits.dataset is not None and self._splits.names["val"] != VAL_SPLIT:
                self._splits.required("val")  # which the user has named
            if self._splits.source("val") is None:
                rows = self._load("train")
                held_out = validation_rows(column_of(rows, "label"), self._kind(), self.val_fraction, self.split_seed)
                trained_on = np.setdiff1d(np.arange(len(rows)), held_out)
                opened["train/train"], opened["validation/train"] = rows.select(trained_on), rows.select(held_out)
            else:
                if stage != "validate":
                    opened["train/train"] = self._load("train")
                opened["validation/validation"] = self._load("val")
        # In a fit, the test file is read for its numbers and duplicates, and so that errors do not come at the end.
        if stage == "test" or (stage in ("fit", None) and self._splits.files["test"] is not None):
            opened["test/test"] = self._load("test")
        if stage == "predict" or (stage is None and self._splits.files["predict"] is not None):
            opened["predict/predict"] = self._load("predict")
            self.predict_rows = self._all_rows()
        return opened

    # The task

    def _columns(self, split: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the text columns and the label columns of a split, as given or as in the training rows, if any."""
        texts, labels = self.options.text_columns, self.options.label_columns
        has_labels = split != "predict"
        if texts is not None and (labels is not None or not has_labels):
            return tuple(texts), tuple(labels or ()) if has_labels else ()
        if self._splits.source("train") is not None:
            task = self._task()
            return task.text_columns, task.label_columns if has_labels else ()
        source = self._splits.required(split)
        chosen = choose_label_columns(source, labels, texts) if has_labels else ()
        return choose_text_columns(source, texts, chosen or labels or ()), chosen

    def _task(self) -> TextTask:
        if self._found_task is None:
            source = self._splits.required("train")
            task = self._found_task = find_task(source, self.options, self.cache_folder)
            # A checkpoint keeps what was found, so that a later run need not find it anew.
            self.hparams.update(
                text_columns=list(task.text_columns),
                label_column=list(task.label_columns),
                problem_type=task.kind.problem_type,
                label_names=list(task.kind.label_names) or None,
            )
            rank_zero_info(f"{source.place}: {task_line(task, self.options)}")
        return self._found_task

    # Rows

    def _load(self, split: str) -> datasets.Dataset:
        source = self._splits.required(split)
        texts, labels = self._columns(split)
        self._reads_pairs = len(texts) == 2
        kind = None if split == "predict" else self._kind()
        key = {
            "rows": source.fingerprint(),
            "texts": texts,
            "labels": labels,
            "kind": None if kind is None else [kind.problem_type, kind.label_names],
            "names": source.label_names,
            "drop_empty": self.options.drop_empty,
            "reading": READING_VERSION,
        }

        def read() -> Iterator[pa.Table]:
            check_columns(source, "text_columns", texts)
            check_columns(source, "label_column", labels)
            return rows_to_tokenize(source, texts, labels, kind, self.options.drop_empty)

        return self.tokenized(
            read,
            TEXT_COLUMNS[: len(texts)],
            key,
            description=source.place,
            max_windows=self.max_windows if self.long_texts == "windows" else None,
            window_overlap=self.window_overlap,
            count_lost=True,
        )

    def _all_rows(self) -> datasets.Dataset:
        source = self._splits.required("predict")
        if isinstance(source, DatasetSource):
            return source.rows
        key = {"all rows": source.fingerprint(), "reading": READING_VERSION}
        rows = stored(self.cache_folder, key, lambda: (part.table for part in source.parts()))
        as_json = set(source.json_columns)
        return rows.with_transform(partial(_without_json, as_json=as_json)) if as_json else rows

    def _collator(self, purpose: str) -> Collator:
        problem = self.problem_type if purpose != "predict" else None
        return Collator.for_tokenizer(
            self.tokenizer,
            self.pad_to_multiple_of,
            regression=problem == "regression",
            num_labels=self.num_labels if problem == "multi_label_classification" else None,
            windows=self.long_texts == "windows",
        )


def _without_json(columns: dict[str, list], as_json: Collection[str]) -> dict[str, list]:
    """Return columns with the values that those in JSON stand for."""
    return {
        name: [None if cell is None else json.loads(cell) for cell in cells] if name in as_json else cells
        for name, cells in columns.items()
    }
