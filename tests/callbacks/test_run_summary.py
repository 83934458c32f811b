"""What a run prints at its end, where its callback has served another fit before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.callbacks import ModelCheckpoint

from callbacks import RunSummary
from tests.callbacks.test_best_validation import fit


def test_a_summary_of_a_shorter_fit_says_nothing_of_the_one_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = RunSummary()
    fit(tmp_path / "first", summary, max_epochs=3)
    assert "last, step 12" in capsys.readouterr().out
    fit(tmp_path / "second", summary, max_epochs=1)
    assert "last, step 4" in capsys.readouterr().out


def test_a_checkpoint_on_a_remote_file_system_is_named_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = "memory://summary"
    fit(tmp_path, RunSummary(), ModelCheckpoint(folder, monitor="val/loss", filename="one"), max_epochs=1)
    assert f"best checkpoint   {folder}/one.ckpt (val/loss " in capsys.readouterr().out


def test_why_there_was_no_validation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(tmp_path, RunSummary(), limit_val_batches=0)
    assert "no validation     the run has none" in capsys.readouterr().out
    fit(tmp_path, RunSummary(), max_steps=1)
    assert "no validation     the run ended before its first one" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("saver", "why"),
    [
        ({"save_top_k": 0}, "ModelCheckpoint has save_top_k: 0"),
        ({"every_n_epochs": 2}, "the run ended before one was due"),
        ({"monitor": "val/none", "every_n_epochs": 2}, "the run ended before val/none was logged"),
    ],
)
def test_why_there_is_no_checkpoint(
    tmp_path: Path, saver: dict[str, Any], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    fit(tmp_path, RunSummary(), ModelCheckpoint(tmp_path, **saver), max_epochs=1)
    assert f"best checkpoint   none: {why}\n" in capsys.readouterr().out
