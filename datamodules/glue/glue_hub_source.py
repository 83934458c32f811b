"""Reader of GLUE tasks from the Hugging Face hub."""

from __future__ import annotations

import hashlib
from functools import cached_property

import datasets

from datamodules.errors import DataError, first_line
from datamodules.glue.glue_tasks import Task

REPOSITORY = "nyu-mll/glue"


class HubSource:
    """Reads ``nyu-mll/glue`` with the `datasets` library, which caches the downloaded files.

    Args:
        task: The task to read.
    """

    def __init__(self, task: Task) -> None:
        self.task = task

    def fingerprint(self, split: str) -> str:
        digest = hashlib.sha256()
        for file in self._split(split).cache_files:
            with open(file["filename"], "rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
        return digest.hexdigest()

    def read(self, split: str) -> datasets.Dataset:
        rows = self._split(split)
        columns = [*self.task.text_columns, "label"]
        if not self.task.is_regression and rows.features["label"].names != list(self.task.label_names):
            raise DataError(
                f"the hub's {REPOSITORY} has the labels {rows.features['label'].names} for {self.task.name}, "
                f"not {list(self.task.label_names)}"
            )
        # In a test split without published labels all labels are -1.
        if set(rows.unique("label")) == {-1}:
            columns.remove("label")
        return rows.select_columns(columns)

    def _split(self, split: str) -> datasets.Dataset:
        if split not in self._splits:
            raise DataError(f"the hub's {REPOSITORY} has no split {split} for {self.task.name}")
        rows = self._splits[split]
        missing = {*self.task.text_columns, "label"} - set(rows.column_names)
        if missing:
            raise DataError(f"the hub's {REPOSITORY} has no column {', '.join(sorted(missing))} for {self.task.name}")
        return rows

    @cached_property
    def _splits(self) -> datasets.DatasetDict:
        try:
            return datasets.load_dataset(REPOSITORY, self.task.name)
        except Exception as error:
            # Errors of the hub's client (no connection, timeouts, HTTP errors, offline mode) share no base class.
            raise DataError(
                f"cannot load {self.task.name} of {REPOSITORY} from the hub ({first_line(error)}); without the hub, "
                "give data_dir, a folder with the official GLUE files, or source=synthetic, generated sentences"
            ) from error
