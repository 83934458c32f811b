"""A study file: what it may say, and the one line that answers everything else."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import pytest

from benchmarks.study.definition import Budget, label_of
from benchmarks.study.study_file import load_study

MINIMAL = """
axes:
  optimizer:
    SGD: {settings: {model.lr: 0.1}}
seeds: 2
budget: {steps: 10}
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "study.yaml"
    path.write_text(dedent(text), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("budget", "text"),
    [
        (Budget(epochs=1), "1 epoch"),
        (Budget(epochs=5), "5 epochs"),
        (Budget(steps=1), "1 step"),
        (Budget(steps=80), "80 steps"),
        (Budget(seconds=60.0), "60 s of training"),
    ],
)
def test_a_budget_in_words(budget: Budget, text: str) -> None:
    assert str(budget) == text


def test_defaults_of_a_minimal_study(tmp_path: Path) -> None:
    study = load_study(write(tmp_path, MINIMAL))
    assert (study.name, study.seeds, study.budget) == ("study", (0, 1), Budget(steps=10))
    assert (study.metric, study.report.primary, study.report.tables_by) == ("val/accuracy", "final", None)


def test_tables_are_split_by_task_where_there_is_one(tmp_path: Path) -> None:
    text = MINIMAL.replace("axes:", "axes:\n  task: {sst2: {settings: {t: 1}}}")
    assert load_study(write(tmp_path, text)).report.tables_by == "task"


def test_numbers_in_scientific_notation_are_numbers(tmp_path: Path) -> None:
    text = MINIMAL.replace("model.lr: 0.1", "model.lr: 1e-4")
    assert load_study(write(tmp_path, text)).axes[0].levels[0].settings == {"model.lr": 1e-4}


def test_anchors_save_writing_the_same_again(tmp_path: Path) -> None:
    levels = "{A: {settings: &a {x: 1, y: 2}}, B: {settings: {<<: *a, y: 3}}}"
    study = load_study(write(tmp_path, MINIMAL.replace("\n    SGD: {settings: {model.lr: 0.1}}", f" {levels}")))
    assert [level.settings for level in study.axes[0].levels] == [{"x": 1, "y": 2}, {"x": 1, "y": 3}]


def test_a_variant_is_merged_and_null_removes(tmp_path: Path) -> None:
    text = MINIMAL + dedent("""
        settings: {data.max_train_samples: 500, data.workers: 2}
        variants:
          full:
            seeds: [7, 8]
            settings: {data.max_train_samples: null, data.workers: 4}
            budget: {steps: null, epochs: 3}
    """)
    study = load_study(write(tmp_path, text), "full")
    assert study.name == "study-full"
    assert study.seeds == (7, 8)
    assert study.settings == {"data.workers": 4}
    assert study.budget == Budget(epochs=3)
    assert load_study(write(tmp_path, text)).settings["data.max_train_samples"] == 500


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (("seeds: 2", "seed: 2"), r"unknown key 'seed' \(allowed: axes, budget, "),
        (("seeds: 2", ""), "the key 'seeds' is missing"),
        (("seeds: 2", "seeds: 0"), "seeds: expected how many"),
        (("seeds: 2", "seeds: [1, 1]"), "a seed appears twice"),
        (("seeds: 2", "seeds: [-1]"), "seeds: expected"),
        (("{steps: 10}", "{steps: 10, epochs: 1}"), "budget: expected exactly one of epochs, seconds, steps"),
        (("{steps: 10}", "{steps: 1.5}"), r"budget.steps: expected a whole number, got 1.5"),
        (("{steps: 10}", "{seconds: -1}"), "budget.seconds: expected a number above 0, got -1"),
        (("{steps: 10}", "{minutes: 1}"), r"budget: unknown key 'minutes' \(allowed: epochs, seconds, steps\)"),
        (("SGD: {settings", "SGD: {setting"), r"axes.optimizer.SGD: unknown key 'setting' \(allowed: axes, budget"),
        (("model.lr: 0.1", "seed_everything: 1"), "seed_everything is set by the study itself: use seeds"),
        (("model.lr: 0.1", "trainer.logger.save_dir: x"), "trainer.logger.save_dir is set by the study itself"),
        (("{settings: {model.lr: 0.1}}", "missing.yaml"), "no such config: missing.yaml"),
        (("{settings: {model.lr: 0.1}}", "[1, 2]"), r"configs: expected a config file or a list of them, got \[1, 2\]"),
        (
            ("  optimizer:\n    SGD: {settings: {model.lr: 0.1}}", "  lr: [1, 2]"),
            "needs a dotted key as the axis' name",
        ),
        (("  optimizer:\n    SGD: {settings: {model.lr: 0.1}}", "  a.b: []"), "expected at least one value"),
        (("  optimizer:\n    SGD: {settings: {model.lr: 0.1}}", "  a.b: [1, 1]"), "a value appears twice"),
        (("  optimizer:\n    SGD: {settings: {model.lr: 0.1}}", "  a: {keys: [], values: [1]}"), "keys: expected"),
        (("seeds: 2", "seeds: 2\nmetric: accuracy"), "expected the name of a logged metric such as val/accuracy"),
        (("seeds: 2", "seeds: 2\nreport: {tune_over: lr}"), r"no axis 'lr' \(the study has: optimizer\)"),
        (("seeds: 2", "seeds: 2\nreport: {primary: last}"), "report.primary: expected final or best, got 'last'"),
        (("seeds: 2", "seeds: 2\npublished: [{source: A}]"), r"published\[0\]: the key 'measure' is missing"),
        (
            ("seeds: 2", "seeds: 2\npublished: [{source: A, measure: b, rows: [{optimizer: SGD}]}]"),
            r"published\[0\].rows\[0\]: value: expected a number, got None",
        ),
        (("seeds: 2", "seeds: 2\nseeds: 3"), "not valid YAML: the key 'seeds' appears twice"),
        (("seeds: 2", "seeds: [2"), "not valid YAML"),
        (("seeds: 2", "seeds: 2\n{a: 1}: 3"), "not valid YAML: .*unhashable key"),
    ],
)
def test_a_mistake_is_one_line_with_file_and_key(tmp_path: Path, change: tuple[str, str], complaint: str) -> None:
    assert change[0] in MINIMAL
    path = write(tmp_path, MINIMAL.replace(*change))
    with pytest.raises(ValueError, match=complaint) as error:
        load_study(path)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


def test_an_unknown_config_lists_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "sgd.yaml").write_text("model: {}\n")
    path = write(tmp_path, MINIMAL.replace("{settings: {model.lr: 0.1}}", str(tmp_path / "sdg.yaml")))
    with pytest.raises(ValueError, match=r"sdg.yaml \(.* has: sgd.yaml, study.yaml\)"):
        load_study(path)


def test_unknown_variants_and_missing_files_are_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no variant 'full' \(the file has: none\)"):
        load_study(write(tmp_path, MINIMAL), "full")
    with pytest.raises(ValueError, match=r"variants\.full: expected a mapping of the keys that change, got \[1\]"):
        load_study(write(tmp_path, MINIMAL + "variants: {full: [1]}"), "full")
    with pytest.raises(ValueError, match=r"nowhere\.yaml: no such file"):
        load_study(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize(
    ("value", "label"),
    [
        (1e-4, "1e-4"),
        (2e-5, "2e-5"),
        (0.1, "0.1"),
        (0.0075, "0.0075"),
        (3.0, "3"),
        (True, "true"),
        (None, "null"),
        (5, "5"),
    ],
)
def test_labels_are_short(value: object, label: str) -> None:
    assert label_of(value) == label
