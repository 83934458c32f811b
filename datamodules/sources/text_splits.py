"""Where the rows of each split of one's own texts come from: files, or the splits of a data set."""

from __future__ import annotations

import os
from collections.abc import Mapping

from datamodules.errors import DataError
from datamodules.sources.dataset_source import DatasetSource, load_splits
from datamodules.sources.file_source import FileSource, Quoting
from datamodules.sources.text_source import TextSource

Files = list[str] | str | None


class TextSplits:
    """The sources of the splits ``train``, ``val``, ``test`` and ``predict``, each opened when it is first asked for.

    Args:
        files: Paths or glob patterns of each split, None or nothing where it has no files.
        dataset: Name of a data set on the hub, or a folder of ``save_to_disk``, for splits without files.
        dataset_config: Its configuration on the hub.
        names: What the data set calls the splits.
        delimiter: Character between the cells of CSV files, or the two characters ``\\t``, as it arrives from a shell.
        quoting: How CSV files are quoted.

    Raises:
        DataError: Both files and a data set are given, or a delimiter is none.
    """

    def __init__(
        self,
        files: Mapping[str, Files],
        dataset: str | None,
        dataset_config: str | None,
        names: Mapping[str, str],
        delimiter: str | None,
        quoting: Quoting,
    ) -> None:
        for split, its_files in files.items():
            _check_paths(f"{split}_file", its_files)
        if dataset is not None and not isinstance(dataset, str | os.PathLike):
            raise DataError(
                f"dataset: a {type(dataset).__name__} is given; its name on the hub is needed, or the folder that its "
                "save_to_disk wrote"
            )
        delimiter = "\t" if delimiter == r"\t" else delimiter
        if delimiter is not None and (len(delimiter) != 1 or delimiter in '"\r\n' or not delimiter.isascii()):
            raise DataError(f"delimiter {delimiter!r} is not allowed; one ASCII character, no quote or line break")
        given = next((split for split, its_files in files.items() if its_files), None)
        if dataset is not None and given not in (None, "predict"):
            raise DataError(f"dataset: {given}_file is given, too; rows are of a data set or of files")
        self.files = {split: its_files or None for split, its_files in files.items()}
        self.dataset, self.dataset_config, self.names = dataset, dataset_config, names
        self.delimiter, self.quoting = delimiter, quoting
        self._opened: dict[str, TextSource | None] = {}
        self._dataset_splits: dict[str, DatasetSource] | None = None

    def source(self, split: str) -> TextSource | None:
        """Return the source of a split, None if it has none."""
        if split not in self._opened:
            self._opened[split] = self._open(split)
        return self._opened[split]

    def required(self, split: str) -> TextSource:
        """Return the source of a split.

        Raises:
            DataError: It has none.
        """
        source = self.source(split)
        if source is not None:
            return source
        if self.dataset is None:
            instead = "; without them a model that linetune exported tells the task, or problem_type and label_names"
            raise DataError(f"{split}_file: not given; the {split} rows are read from it{instead * (split == 'train')}")
        splits = ", ".join(self._dataset_splits or ())
        raise DataError(f"{split}_split: {self.dataset} has no split {self.names[split]!r}; its splits are {splits}")

    def _open(self, split: str) -> TextSource | None:
        files = self.files[split]
        if files is not None:
            return FileSource(files, f"{split}_file", self.delimiter, self.quoting)
        if self.dataset is None:
            return None
        if self._dataset_splits is None:
            self._dataset_splits = load_splits(self.dataset, self.dataset_config)
        return self._dataset_splits.get(self.names[split])


def _check_paths(option: str, files: object) -> None:
    listed = files if isinstance(files, list | tuple) else [] if files is None else [files]
    for each in listed:
        if not isinstance(each, str | os.PathLike):
            within = " in a list" if listed is files else ""
            raise DataError(
                f"{option}: a {type(each).__name__} is given{within}; paths of files are needed, or glob patterns; "
                "write rows in memory to a file first"
            )
