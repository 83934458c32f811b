"""Vectors in a file: those that were written, missing ones found out, and a line where the disk is full."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightning_modules import ModelError
from lightning_modules.features.vector_file import VectorFile

SIZE = 384
VECTORS = np.random.default_rng(0).standard_normal((6, SIZE), np.float32)
CHECKSUMS = np.random.default_rng(1).integers(-(1 << 62), 1 << 62, 6)


def test_rows_are_missing_until_they_are_written_and_those_of_other_examples_stay_missing(tmp_path: Path) -> None:
    file, rows = VectorFile(tmp_path / "a" / "b.features", SIZE), np.array([70, 3, 0, 9, 5000, 1])
    vectors, missing = file.read(rows, CHECKSUMS)
    assert missing.tolist() == [0, 1, 2, 3, 4, 5]
    file.write(rows[:4], CHECKSUMS[:4], VECTORS[:4])
    for reader in file, VectorFile(tmp_path / "a" / "b.features", SIZE):
        vectors, missing = reader.read(rows, CHECKSUMS)
        assert missing.tolist() == [4, 5]  # behind the file's end, and in a hole
        assert (vectors[:4] == VECTORS[:4]).all()
        assert reader.read(rows[:4], CHECKSUMS[::-1][:4])[1].tolist() == [0, 1, 2, 3]


def test_a_file_that_another_process_cuts_short_has_missing_rows(tmp_path: Path) -> None:
    file, rows = VectorFile(tmp_path / "b.features", SIZE), np.arange(6)
    file.write(rows, CHECKSUMS, VECTORS)
    file.read(rows, CHECKSUMS)
    os.truncate(tmp_path / "b.features", 2000)  # one row, and a part of the next
    vectors, missing = file.read(rows, CHECKSUMS)
    assert missing.tolist() == [1, 2, 3, 4, 5]
    assert (vectors[0] == VECTORS[0]).all()


# Of Linux's sched.h: a process with file systems, and with rights, of its own.
NEW_MOUNTS, NEW_USER = 0x00020000, 0x10000000


def write_on_small_disk(folder: Path, results: Any) -> None:
    """Write more rows than a file system of 16 KiB holds, in a process that alone has it mounted."""
    commands = [["mount", "--make-rprivate", "/"], ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(folder)]]
    is_alone = ctypes.CDLL(None).unshare(NEW_MOUNTS | (NEW_USER if os.getuid() else 0)) == 0
    if not is_alone or any(subprocess.run(command, capture_output=True).returncode for command in commands):
        results.put(None)
        return
    file, rows = VectorFile(folder / "b.features", SIZE), np.arange(6)
    file.write(rows, CHECKSUMS, VECTORS)
    try:
        file.write(rows + 10, CHECKSUMS, VECTORS)
    except ModelError as error:
        results.put((str(error), file.read(rows, CHECKSUMS)[1].tolist()))


@pytest.mark.skipif(sys.platform != "linux", reason="mounts a file system as Linux does")
def test_a_full_disk_is_one_line_and_rows_that_were_written_stay(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    writer = context.Process(target=write_on_small_disk, args=(tmp_path, results))
    writer.start()
    writer.join()
    assert writer.exitcode == 0
    found = results.get()
    if found is None:
        pytest.skip("no file system may be mounted here")
    assert found == (f"cache_features: {tmp_path / 'b.features'} cannot be written: No space left on device", [])
