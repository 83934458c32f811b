"""The benchmark of step costs runs on a small model and says what it measured."""

from __future__ import annotations

import sys

import pytest

from benchmarks import step_cost
from tests.glue_files import write_sst2
from tests.tiny_models import save_tiny_bert


@pytest.fixture
def arguments(tmp_path, monkeypatch):
    glue = write_sst2(tmp_path / "glue", 40)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    model = save_tiny_bert(tmp_path / "m", vocab_size=30522, max_position_embeddings=128)
    common = ["--data-dir", str(glue), "--model", str(model), "--device", "cpu", "--batch-size", "8"]

    def run(*more):
        monkeypatch.setattr(sys, "argv", ["step_cost", *common, *more])
        step_cost.main()

    return run


def rows_of(output):
    """The cells of every table row, by the first cell."""
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in output.splitlines() if line[:1] == "|"]
    return {row[0]: row[1:] for row in cells}


def test_every_method_gets_a_row_and_every_pair_a_table(arguments, capsys):
    arguments("--steps", "7", "--pair-steps", "3")
    output = capsys.readouterr().out
    rows = rows_of(output)
    assert set(step_cost.methods(4)) <= set(rows)
    assert rows["AdamW"][1] == rows["AdamW"][3] == "1.00"
    assert rows["AdamW"][4] == "1.00"
    for name in step_cost.methods(4):
        assert float(rows[name][0]) > 0
        assert float(rows[name][4]) >= 1
        assert float(rows[name][7]) > 1
        # Trials are a part of what a method takes: none in AdamW's steps, some in each of a search.
        assert float(rows[name][9]) >= 1
    assert rows["fused AdamW"][8:10] == ["1.00", "1.00"]
    assert float(rows["AdamSLS"][9]) > 1.1
    assert float(rows["AdamSLS"][4]) >= 2
    assert rows["published"][-1] == "1.00"
    # Both of a pair try the same step sizes.
    pair = [line for line in output.splitlines() if line.startswith(("| ours", "| published"))]
    assert len(pair) == 2 * len(step_cost.pairs())


def test_peak_memory_of_one_method(arguments, capsys):
    arguments("--steps", "4", "--peak-memory", "AdamW")
    assert int(capsys.readouterr().out.split()[-1]) > 50 * 2**20


def test_an_unknown_method_is_one_line(arguments, capsys):
    with pytest.raises(SystemExit):
        arguments("--methods", "Adamw")
    assert "Adamw unknown; there are AdamW, fused AdamW, SGDSLS" in capsys.readouterr().err
