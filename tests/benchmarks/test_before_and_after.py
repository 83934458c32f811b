"""The benchmarks that compare two trees: what they measure here, and what their tables say of two versions."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import start_up, step_overhead


def test_a_tiny_fit_is_measured_and_its_result_told_apart() -> None:
    first, again, longer = (step_overhead.measure("AdamW", steps) for steps in (4, 4, 5))
    assert first[0] > 0
    assert first[1] == again[1] != longer[1]


def test_the_table_of_steps_has_the_least_times_and_whether_results_are_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    results = {"AdamW": "a", "SaLSA": "b", "ParabolicAdam": "c"}
    times = iter([4.0, 3.0, 2.0, 5.0] * 3)

    def measured(tree: Path, name: str, steps: int) -> tuple[float, str]:
        return next(times), results[name] + (tree.name if name == "SaLSA" else "")

    monkeypatch.setattr(step_overhead, "measured_in", measured)
    _, _, *rows = step_overhead.compare(Path("old"), Path("new"), steps=9, rounds=2).splitlines()
    assert rows[0] == "| AdamW | 2.00 | 3.00 | 1.50 | equal |"
    assert rows[1].endswith("| different |")


def test_the_table_of_starts_leaves_out_the_first_round(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([(0.1,) * 3, (0.1,) * 3, (4.0, 5.0, 6.0), (2.0, 2.5, 3.0), (8.0,) * 3, (1.0, 4.0, 4.0)])
    monkeypatch.setattr(start_up, "measure", lambda tree: next(seconds))
    _, _, *rows = start_up.compare(Path("old"), Path("new"), rounds=2).splitlines()
    assert [row.split(" | ", 1)[1] for row in rows] == [
        "4.00 | 1.00 | 0.25 |",
        "5.00 | 2.50 | 0.50 |",
        "6.00 | 3.00 | 0.50 |",
    ]


@pytest.mark.parametrize("benchmark", [start_up, step_overhead])
def test_a_folder_without_the_code_is_one_line(
    benchmark: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        benchmark.main([str(tmp_path)])  # type: ignore[attr-defined]
    assert "is no checkout" in capsys.readouterr().err
