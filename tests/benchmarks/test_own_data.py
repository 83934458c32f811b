"""The comparison on files of one's own prints a row for every method that was asked for."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from benchmarks import own_data
from lightning_modules import SequenceClassifier
from tests.tiny_models import save_tiny_bert


def test_every_method_gets_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = str(save_tiny_bert(tmp_path / "m", vocab_size=30522, max_position_embeddings=128))
    monkeypatch.setattr(own_data, "SequenceClassifier", partial(SequenceClassifier, tiny))
    rows = "".join(f"{word} number {row},{word}\n" for row in range(30) for word in ("good", "bad"))
    file = tmp_path / "rows.csv"
    file.write_text(f"text,label\n{rows}")
    chosen = ["--text", "text", "--label", "label", "--train-rows", "40", "--test-rows", "20", "--epochs", "1"]
    own_data.main([str(file), str(file), *chosen, "--methods", "ParabolicAdam", "AdamW 0.0001"])
    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert table[0] == "| optimizer | best val/loss | test/accuracy | test/macro_f1 | seconds |"
    assert [line.split(" | ")[0] for line in table[2:]] == ["| ParabolicAdam", "| AdamW 0.0001"]
    assert all(0 <= float(line.split(" | ")[2]) <= 1 for line in table[2:])


@pytest.mark.parametrize("name", ["rows.txt", "nowhere.csv"])
def test_a_file_that_cannot_be_read_is_one_line(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "rows.txt").write_text("text,label\na,b\n")
    with pytest.raises(SystemExit):
        own_data.main([str(tmp_path / name), str(tmp_path / name), "--text", "text", "--label", "label"])
    assert f"{name}: no such file, or none of .csv, .parquet, .jsonl" in capsys.readouterr().err.splitlines()[-1]
