"""The studies that ship: every config and setting is something that the command line can run."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.study.execution import check_cell
from benchmarks.study.grid import Cell, expand_cells, expand_runs
from benchmarks.study.study_file import load_study
from benchmarks.study.yaml_file import read_yaml

ROOT = Path(__file__).resolve().parents[2]
STUDIES = sorted((ROOT / "configs" / "studies").glob("*.yaml"))


def name_of(value: object) -> str:
    return value.stem if isinstance(value, Path) else str(value or "small")


def cells_with_every_setting(path: Path) -> list[Cell]:
    """Return as few cells of a study and its variants as hold every config and setting, where numbers are alike."""
    seen: set[tuple[str, str]] = set()
    chosen = []
    for variant in (None, *(read_yaml(path).get("variants") or ())):
        for cell in expand_cells(load_study(path, variant)):
            values = {key: "number" if type(it) in (int, float) else str(it) for key, it in cell.settings.items()}
            parts = {*values.items(), *(("", config) for config in cell.configs)}
            if not parts <= seen:
                chosen.append(cell)
                seen |= parts
    return chosen


@pytest.mark.slow
@pytest.mark.parametrize("path", STUDIES, ids=name_of)
def test_every_setting_can_be_run(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    cells = cells_with_every_setting(path)
    complaints = {cell.name: check_cell(cell, tmp_path) for cell in cells}
    assert complaints == dict.fromkeys(complaints, "")


@pytest.mark.parametrize("path", STUDIES, ids=name_of)
def test_every_variant_changes_what_runs_or_how_it_is_judged(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    study = load_study(path)
    small = {run.id for run in expand_runs(study)}
    for variant in read_yaml(path).get("variants") or ():
        varied = load_study(path, variant)
        ids = {run.id for run in expand_runs(varied)}
        # A variant is a part of the study, other runs altogether, or the same runs judged by something else.
        assert ids < small or not ids & small or (ids == small and varied.metric != study.metric)
    assert load_study(path).expected_seconds is not None
