"""Memory is measured in processes of their own, and methods without gradients take what an evaluation does."""

from __future__ import annotations

import re
import sys

import pytest

from benchmarks import memory


@pytest.mark.slow
def test_a_method_without_gradients_takes_what_an_evaluation_does(monkeypatch, capsys, tmp_path):
    arguments = ["--size", "25m", "--device", "cpu", "--length", "16", "--output", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["memory", *arguments, "--methods", "evaluation", "MeZO", "AdamW"])
    memory.main()
    report = (tmp_path / "memory_25m_cpu.md").read_text()
    assert report in capsys.readouterr().out
    rows = {cells[1]: cells for line in report.splitlines() if len(cells := re.split(r" *\| *", line)) > 2}
    weights = 22_000_000 * 4 / 2**20
    assert weights < float(rows["evaluation"][2]) < 1.5 * weights
    assert float(rows["MeZO"][4]) < 1.1
    # Gradients and two moments.
    assert float(rows["AdamW"][5]) > 3 * weights * 0.95


@pytest.mark.slow
def test_in_half_precision_mezo_takes_one_copy_of_the_parameters_more(monkeypatch, capsys):
    arguments = ["--size", "25m", "--device", "cpu", "--length", "16", "--dtype", "bfloat16"]
    monkeypatch.setattr(sys, "argv", ["memory", *arguments, "--methods", "evaluation", "LineSearchMeZO"])
    memory.main()
    printed = capsys.readouterr().out
    names = ("evaluation", "LineSearchMeZO")
    evaluation, search = (re.search(rf"\| {name} \|.*", printed)[0].split("|") for name in names)
    weights = 22_000_000 * 2 / 2**20
    assert 0.9 * weights < float(search[2]) - float(evaluation[2]) < 1.6 * weights
    assert float(search[6]) == pytest.approx(weights, rel=0.05)


def test_a_method_that_dies_is_left_out_of_the_table(monkeypatch, capsys):
    def measured(module, arguments):
        if arguments != ["--only", "evaluation"]:
            raise RuntimeError(f"{' '.join(arguments)}: killed, out of memory?")
        return {"parameters": 10, "weights": 40, "trainable": 40, "peak": 2**20}

    monkeypatch.setattr(memory, "measured_in_new_process", measured)
    monkeypatch.setattr(sys, "argv", ["memory", "--methods", "evaluation", "SaLSA"])
    memory.main()
    printed = capsys.readouterr()
    assert "not measured: --only SaLSA: killed, out of memory?" in printed.err
    assert "| evaluation | 1 | 104857.60 | 1.000 | 1 | 0 |" in printed.out
    assert "- command: `python -m benchmarks.memory --methods evaluation SaLSA`" in printed.out
    assert "| SaLSA" not in printed.out
