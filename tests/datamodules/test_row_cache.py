"""Files of the cache appear whole or not at all, and can be read by whoever shares the folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from datamodules.errors import DataError
from datamodules.sources.file_source import FileSource
from datamodules.sources.row_cache import new_file
from datamodules.texts.text_task import TaskOptions, find_task


def test_a_task_is_kept_in_a_file_with_the_rights_of_any_new_one(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("text,label\ngood,1\nbad,0\n")
    mask = os.umask(0o022)
    try:
        find_task(FileSource(str(tmp_path / "rows.csv"), "train_file"), TaskOptions(), tmp_path / "cache")
    finally:
        os.umask(mask)
    (file,) = (tmp_path / "cache").iterdir()
    assert file.stat().st_mode & 0o777 == 0o644


def test_nothing_is_left_of_a_file_that_was_not_finished(tmp_path: Path) -> None:
    def write() -> None:
        with new_file(tmp_path / "cache" / "rows.arrow") as stream:
            stream.write(b"half")
            raise OSError(28, "No space left on device")

    with pytest.raises(DataError, match=r"^cannot write to cache_dir .*cache: No space left on device$"):
        write()
    assert not list((tmp_path / "cache").iterdir())
