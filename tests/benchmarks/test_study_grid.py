"""The grid: every combination once, under ids that follow from the settings alone."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import pytest

from benchmarks.study.definition import Budget, Study
from benchmarks.study.grid import Run, expand_cells, expand_runs
from benchmarks.study.study_file import load_study


def study_of(folder: Path, text: str, **replacements: str) -> Study:
    text = dedent(text)
    for old, new in replacements.items():
        text = text.replace(old, new)
    path = folder / "study.yaml"
    path.write_text(text, encoding="utf-8")
    return load_study(path)


GRID = """
configs: BASE
settings: {data.max_train_samples: 8}
axes:
  task:
    sst2: {settings: {data.task_name: sst2}}
    cola: {settings: {data.task_name: cola}, metric: val/matthews, budget: {epochs: 10}}
  optimizer:
    AdamW:
      settings: {model.optimizer.class_path: torch.optim.AdamW}
      axes:
        learning_rate: {keys: [model.optimizer.lr, model.optimizer.max_lr], values: [1e-4, 2e-4]}
    SaLSA: {settings: {model.optimizer.class_path: optimizers.SaLSA}}
  model.pretrained: [true, false]
seeds: [3, 5]
budget: {epochs: 5}
"""


@pytest.fixture
def base(tmp_path: Path) -> Path:
    path = tmp_path / "base.yaml"
    path.write_text("trainer: {accelerator: cpu}\n")
    return path


def test_every_combination_once(tmp_path: Path, base: Path) -> None:
    study = study_of(tmp_path, GRID, BASE=str(base))
    cells = expand_cells(study)
    assert len(cells) == 2 * (2 + 1) * 2
    assert study.axis_names() == ["task", "optimizer", "learning_rate", "model.pretrained"]
    first = cells[0]
    assert first.labels == {"task": "sst2", "optimizer": "AdamW", "learning_rate": "1e-4", "model.pretrained": "true"}
    assert first.configs == (str(base),)
    assert first.settings == {
        "data.max_train_samples": 8,
        "data.task_name": "sst2",
        "model.optimizer.class_path": "torch.optim.AdamW",
        "model.optimizer.lr": 1e-4,
        "model.optimizer.max_lr": 1e-4,
        "model.pretrained": True,
    }
    assert cells[-1].labels == {"task": "cola", "optimizer": "SaLSA", "model.pretrained": "false"}
    assert (cells[-1].metric, cells[-1].budget) == ("val/matthews", Budget(epochs=10))
    assert (first.metric, first.budget) == ("val/accuracy", Budget(epochs=5))


def test_runs_come_seed_by_seed(tmp_path: Path, base: Path) -> None:
    runs = expand_runs(study_of(tmp_path, GRID, BASE=str(base)))
    assert [run.seed for run in runs] == [3] * 12 + [5] * 12
    assert len({run.id for run in runs}) == 24


def ids(runs: list[Run]) -> list[str]:
    return [run.id for run in runs]


def test_names_comments_and_file_names_do_not_change_an_id(tmp_path: Path, base: Path) -> None:
    before = expand_runs(study_of(tmp_path, GRID, BASE=str(base)))
    moved = base.with_name("moved.yaml")
    moved.write_text("# a comment\n" + base.read_text())
    after = expand_runs(study_of(tmp_path, "title: T\n" + dedent(GRID).replace("SaLSA:", "salsa:"), BASE=str(moved)))
    assert ids(before) == ids(after)


@pytest.mark.parametrize(
    ("old", "new", "changed"),
    [
        ("data.max_train_samples: 8", "data.max_train_samples: 9", 24),
        ("values: [1e-4, 2e-4]", "values: [1e-4, 3e-4]", 8),
        ("{epochs: 10}", "{epochs: 11}", 12),
        ("seeds: [3, 5]", "seeds: [3, 6]", 12),
    ],
)
def test_settings_budget_and_seed_change_an_id(tmp_path: Path, base: Path, old: str, new: str, changed: int) -> None:
    before = set(ids(expand_runs(study_of(tmp_path, GRID, BASE=str(base)))))
    assert old in GRID
    after = set(ids(expand_runs(study_of(tmp_path, GRID.replace(old, new), BASE=str(base)))))
    assert len(after - before) == changed


def test_the_content_of_a_config_changes_the_id(tmp_path: Path, base: Path) -> None:
    study = study_of(tmp_path, GRID, BASE=str(base))
    before = set(ids(expand_runs(study)))
    base.write_text("trainer: {accelerator: gpu}\n")
    assert not before & set(ids(expand_runs(study)))


def test_two_names_for_the_same_settings_are_refused(tmp_path: Path) -> None:
    text = """
        axes: {optimizer: {A: {settings: {a: 1}}, B: {settings: {a: 1}}}}
        seeds: 1
        budget: {steps: 1}
    """
    with pytest.raises(ValueError, match="the cells 'A' and 'B' have the same settings"):
        expand_runs(study_of(tmp_path, text))


def test_two_levels_that_append_to_one_list_are_refused(tmp_path: Path) -> None:
    text = """
        axes:
          a: {x: {settings: {trainer.callbacks+: A}}}
          b: {y: {settings: {trainer.callbacks+: B}}}
        seeds: 1
        budget: {steps: 1}
    """
    with pytest.raises(ValueError, match=r"trainer\.callbacks\+ is set more than once for the cell with b 'y'"):
        expand_cells(study_of(tmp_path, text))


def test_one_table_of_two_metrics_is_refused(tmp_path: Path) -> None:
    text = """
        axes:
          data: {a: {settings: {d: 1}, metric: val/accuracy}, b: {settings: {d: 2}, metric: val/loss}}
          optimizer: {A: {settings: {o: 1}}, B: {settings: {o: 2}}}
        seeds: 1
        budget: {steps: 1}
        report: {tables_by: AXIS}
    """
    for axis in ("null", "optimizer"):
        with pytest.raises(ValueError, match=r"mix val/accuracy and val/loss: set report\.tables_by to the axis"):
            expand_cells(study_of(tmp_path, text, AXIS=axis))
    assert len(expand_cells(study_of(tmp_path, text, AXIS="data"))) == 4


def test_two_axes_of_one_name_in_a_cell_are_refused(tmp_path: Path) -> None:
    """Their labels would be one, and two cells one row of the report."""
    axes = "{task: {a: {axes: {rate: {low: {settings: {x: 1}}, high: {settings: {x: 2}}}}}}, rate: {one: {}}}"
    study = study_of(tmp_path, f"axes: {axes}\nseeds: 1\nbudget: {{steps: 1}}\n")
    with pytest.raises(ValueError, match="two axes of the cell 'a · low · one' are called 'rate'"):
        expand_cells(study)
