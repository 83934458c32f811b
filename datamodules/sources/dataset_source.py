"""Rows of a data set of `datasets`: from the hub, or from a folder."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import datasets
import pyarrow as pa

from datamodules.errors import DataError, first_line
from datamodules.sources.text_source import Part, rows_at_once


class DatasetSource:
    """Rows of a split of a data set from the hub, or from a folder that ``save_to_disk`` wrote.

    Args:
        rows: The split.
        place: Its name, for messages.
    """

    def __init__(self, rows: datasets.Dataset, place: str) -> None:
        # A saved data set keeps its format, which may be of some columns alone and of tensors.
        self.rows, self.place = rows.with_format(None), place
        self.schema: pa.Schema = rows.features.arrow_schema.remove_metadata()
        self.json_columns: dict[str, str] = {}
        self.label_names = {}
        for name, feature in rows.features.items():
            inner = getattr(feature, "feature", feature)
            if isinstance(inner, datasets.ClassLabel):
                self.label_names[name] = list(inner.names)

    def fingerprint(self) -> str:
        digest = hashlib.sha256(repr(self.rows.features).encode())
        for file in self.rows.cache_files:
            with open(file["filename"], "rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
        return digest.hexdigest()

    def parts(self, columns: Sequence[str] | None = None) -> Iterator[Part]:
        rows = self.rows if columns is None else self.rows.select_columns(list(columns))
        first = 1
        for table in rows.with_format("arrow").iter(rows_at_once(len(self.rows), self.rows.data.nbytes)):
            yield Part(table, self.place, first)
            first += len(table)


def load_splits(name: str, configuration: str | None) -> dict[str, DatasetSource]:
    """Load all splits of a data set.

    Args:
        name: Its name on the hub, or a folder that ``save_to_disk`` wrote.
        configuration: Its configuration on the hub. Default: the only one.

    Raises:
        DataError: It cannot be loaded.
    """
    folder = Path(name).expanduser()
    try:
        in_folder = folder.is_dir()
        # From files whatever HF_DATASETS_IN_MEMORY_MAX_SIZE says: by their content rows are cached.
        found = (
            datasets.load_from_disk(str(folder), keep_in_memory=False)
            if in_folder
            else datasets.load_dataset(name, configuration, keep_in_memory=False)
        )
    except Exception as error:
        # Errors of the hub's client and of damaged files share no base class.
        raise DataError(
            f"dataset: cannot load {name} ({first_line(error)}); it is a name on the hub, or a folder that "
            "save_to_disk wrote"
        ) from error
    splits = {"train": found} if isinstance(found, datasets.Dataset) else found
    return {split: DatasetSource(rows, f"{name}, split {split}") for split, rows in splits.items()}
