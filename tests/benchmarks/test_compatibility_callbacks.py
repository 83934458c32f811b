"""The page of Lightning's callbacks: a part of its rows, made again."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from zlib import crc32

import pytest

from benchmarks.compatibility.callbacks import CALLBACKS, FOR_RATES, OPTIMIZERS, SEARCH, outcome

PAGE = (Path(__file__).parents[2] / "docs" / "compatibility_callbacks.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| (\w+) \| (\S+\.\S+) \| (.+) \|$", PAGE, re.MULTILINE)


def test_the_page_has_every_callback():
    pairs = {(name, SEARCH) for name in CALLBACKS} | {(name, other) for name in FOR_RATES for other in OPTIMIZERS}
    assert pairs == {(name, optimizer) for name, optimizer, _ in ROWS}


@pytest.mark.parametrize(
    ("name", "optimizer", "expected"),
    [row for row in ROWS if row[2].startswith("refused: ") or crc32(row[0].encode()) % 6 == 0],
)
def test_a_row_of_the_page_is_what_is_found(name, optimizer, expected, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["linetune"])  # LightningCLI warns of arguments given twice
    assert outcome(name, optimizer).replace("|", "/") == expected
