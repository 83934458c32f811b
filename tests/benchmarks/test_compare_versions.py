"""Two versions of the optimizers side by side: equal ones are equal, others are told."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from benchmarks import compare_versions

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """A copy of the optimizers, as another checkout has them."""
    shutil.copytree(ROOT / "optimizers", tmp_path / "optimizers")
    return tmp_path


def rows(output: str) -> dict[str, str]:
    """What the table says of the losses, by the optimizer."""
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in output.splitlines() if line.startswith("|")]
    return {name: losses for name, losses, *_ in cells[2:]}


def test_every_optimizer_equals_itself(other: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare_versions.main([str(other), "--steps", "2"]) == 0
    found = rows(capsys.readouterr().out)
    assert set(found) == set(compare_versions.methods(2))
    assert set(found.values()) == {"equal"}


def test_a_difference_is_told(other: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = other / "optimizers" / "salsa.py"
    text = file.read_text()
    assert "growth: float = 1.1" in text
    file.write_text(text.replace("growth: float = 1.1", "growth: float = 1.5"))
    arguments = [str(other), "--steps", "6", "--only", "SaLSA", "AdamSLS"]
    assert compare_versions.main(arguments) == 1
    found = rows(capsys.readouterr().out)
    assert found["AdamSLS"] == "equal"
    assert found["SaLSA"].endswith(" apart")


def test_a_folder_without_optimizers_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        compare_versions.main([str(tmp_path)])
    assert "is no checkout" in capsys.readouterr().err
