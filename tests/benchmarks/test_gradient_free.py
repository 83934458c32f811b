"""The benchmark of the gradient-free methods runs on a small model and says what it measured."""

from __future__ import annotations

import sys

import pytest
from transformers import AutoTokenizer, BertModel

from benchmarks import gradient_free
from lightning_modules.models.packaged_models import packaged_folder
from tests.tiny_models import save_tiny_bert


@pytest.fixture
def arguments(tmp_path, monkeypatch):
    folder = tmp_path / "glue" / "SST-2"
    folder.mkdir(parents=True)
    rows = [f"a sentence that is {'good' if i % 2 else 'bad'} {'indeed ' * (i % 5)}\t{i % 2}" for i in range(48)]
    for name in ("train.tsv", "dev.tsv"):
        (folder / name).write_text("\n".join(["sentence\tlabel", *rows]) + "\n")
    (folder / "test.tsv").write_text("index\tsentence\n0\tfine\n")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    model = save_tiny_bert(tmp_path / "whole", vocab_size=30522, max_position_embeddings=128)
    # Without the classifier, as a pretrained model comes.
    BertModel.from_pretrained(model).save_pretrained(tmp_path / "m")
    AutoTokenizer.from_pretrained(packaged_folder("offline:all-MiniLM-L6-v2")).save_pretrained(tmp_path / "m")
    common = ["--data-dir", str(tmp_path / "glue"), "--model", str(tmp_path / "m"), "--batch-size", "8", "--steps", "2"]
    common += ["--feature-cache-dir", str(tmp_path / "features"), "--seconds", "0.01"]

    def run(*more):
        monkeypatch.setattr(sys, "argv", ["gradient_free", *common, *more])
        gradient_free.main()

    return run


@pytest.fixture
def in_this_process(monkeypatch):
    """Measures without a process for each: those start slowly."""

    def measure(bench, what, setting, method):
        if what == "peak_memory":  # a small model leaves no trace in a process that has been larger
            return {"peak": 2.0**20 * (1.04 if method == "GLD" else 1.06 if method == "MeZO" else 1)}
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


def test_every_part_gets_a_table_and_every_target_a_row(arguments, in_this_process, capsys):
    arguments("--methods", "GLD", "MeZO", "AdamW")
    found = tables(capsys.readouterr().out)
    assert set(found) >= {*gradient_free.PARTS, "targets"}
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
    assert len(found["memory"]) == 1 + 2 * (1 + 3)
    # Per setting two memories, and three overheads, two of the cache and four of the candidates.
    assert len(found["targets"]) == 1 + 2 * 2 + 3 * 2 + 2 + 4
    for name, value, bound, verdict in found["targets"][1:]:
        sign, number = bound.split()
        reached = float(value) <= float(number) if sign == "≤" else float(value) >= float(number)
        assert verdict == ("reached" if reached else "missed"), name


def test_each_measurement_is_a_process_of_its_own(arguments, capsys):
    arguments("--parts", "memory", "--settings", "head", "--methods", "MeZO", "--repeats", "1")
    found = tables(capsys.readouterr().out)
    assert [row[1] for row in found["memory"][1:]] == ["evaluation", "MeZO"]
    assert float(found["memory"][2][2]) > 0
    assert [row[0] for row in found["targets"][1:]] == ["peak memory, head: MeZO ÷ evaluation"]


def test_a_peak_is_the_median_of_several_processes(arguments, capsys, monkeypatch):
    peaks = iter([3.0, 1.0, 2.0, 9.0, 4.0, 1.0])
    monkeypatch.setattr(gradient_free.Bench, "measure", lambda *_: {"peak": next(peaks) * 2**20})
    arguments("--parts", "memory", "--settings", "head", "--methods", "MeZO", "--repeats", "3")
    found = tables(capsys.readouterr().out)
    assert [row[2:] for row in found["memory"][1:]] == [["2", "1.000"], ["4", "2.000"]]


def test_too_few_steps_are_one_line(arguments, in_this_process):
    with pytest.raises(SystemExit, match="no step beyond the first 2"):
        arguments("--parts", "cache", "--steps", "0")


def test_an_unknown_method_is_one_line(arguments, capsys):
    with pytest.raises(SystemExit):
        arguments("--methods", "Adamw")
    assert "Adamw unknown; there are GLD" in capsys.readouterr().err
