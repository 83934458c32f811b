"""The benchmark of the gradient-free methods runs on a small model and says what it measured."""

from __future__ import annotations

import sys

import pytest
from transformers import AutoTokenizer, BertModel

from benchmarks import gradient_free
from lightning_modules.models.packaged_models import packaged_folder
from tests.glue_files import write_sst2
from tests.tiny_models import save_tiny_bert


@pytest.fixture
def arguments(tmp_path, monkeypatch):
    glue = write_sst2(tmp_path / "glue", 48)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    model = save_tiny_bert(tmp_path / "whole", vocab_size=30522, max_position_embeddings=128)
    # Without the classifier, as a pretrained model comes.
    BertModel.from_pretrained(model).save_pretrained(tmp_path / "m")
    AutoTokenizer.from_pretrained(packaged_folder("offline:all-MiniLM-L6-v2")).save_pretrained(tmp_path / "m")
    common = ["--data-dir", str(glue), "--model", str(tmp_path / "m"), "--batch-size", "8", "--steps", "2"]
    common += ["--feature-cache-dir", str(tmp_path / "features"), "--seconds", "0.01"]

    def run(*more):
        monkeypatch.setattr(sys, "argv", ["gradient_free", *common, *more])
        gradient_free.main()

    return run


@pytest.fixture
def in_this_process(monkeypatch):
    """Measures without a process for each: those start slowly."""

    def measure(bench, what, setting, method):
        return gradient_free.MEASUREMENTS[what](bench.options, setting, method)

    monkeypatch.setattr(gradient_free.Bench, "measure", measure)


def tables(output):
    """Rows of cells, without the lines below the headings, by the line in front of the table."""
    found, title = {}, ""
    for line in filter(None, output.splitlines()):
        if line[0] != "|":
            title = line
        elif not line.startswith("| ---"):
            found.setdefault(title, []).append([cell.strip() for cell in line.strip("|").split("|")])
    return found


def test_every_part_gets_a_table(arguments, in_this_process, capsys):
    arguments("--methods", "GLD", "MeZO", "AdamW")
    found = tables(capsys.readouterr().out)
    assert set(found) >= set(gradient_free.PARTS)
    assert [row[:2] for row in found["accuracy"][1:]] == [
        [setting, method] for setting in ("head", "all") for method in ("GLD", "MeZO", "AdamW")
    ]
    for row in found["accuracy"][1:]:
        forwards, steps, count, loss, score = map(float, row[2:])
        per_step = {"GLD": 6, "MeZO": 2, "AdamW": 1}[row[1]]
        assert forwards / steps == pytest.approx(per_step, rel=0.05)
        assert count > 0
        assert loss > 0
        assert 0 <= score <= 1
    assert all(float(row[-1]) >= 1 for row in found["overhead"][1:])
    assert len(found["overhead"]) == 1 + 3 * 2
    assert [row[0] for row in found["cache"][1:]] == ["GLD", "MeZO"]
    assert len(found["candidates"]) == 1 + 2 * len(gradient_free.CANDIDATES)


def test_each_measurement_is_a_process_of_its_own(arguments, capsys):
    arguments("--parts", "accuracy", "--settings", "head", "--methods", "MeZO")
    found = tables(capsys.readouterr().out)
    assert [row[:2] for row in found["accuracy"][1:]] == [["head", "MeZO"]]
    assert float(found["accuracy"][1][4]) > 0


def test_too_few_steps_are_one_line(arguments, in_this_process):
    with pytest.raises(SystemExit, match="no step beyond the first 2"):
        arguments("--parts", "cache", "--steps", "0")


def test_an_unknown_method_is_one_line(arguments, capsys):
    with pytest.raises(SystemExit):
        arguments("--methods", "Adamw")
    assert "Adamw unknown; there are GLD" in capsys.readouterr().err
