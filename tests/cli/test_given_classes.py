"""Error messages about a model or data of the user's own: they speak of the class that was given."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.command_line import failed

BARS = """from __future__ import annotations

from typing import TYPE_CHECKING

from lightning.pytorch import LightningDataModule

from lightning_modules import ClosureModule

if TYPE_CHECKING:
    from nowhere import Width


class BarClassifier(ClosureModule):
    def __init__(self, width: Width = 3, **training):
        super().__init__(**training)


class Bars(LightningDataModule):
    def __init__(self, batch_size: int = 3):
        super().__init__()
"""


@pytest.fixture
def bars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of classes of the user's own, and configurations that name them; returns the folder."""
    (tmp_path / "barred.py").write_text(BARS)
    (tmp_path / "section.yaml").write_text("model:\n  class_path: barred.BarClassifier\n")
    (tmp_path / "short.yaml").write_text("model: barred.BarClassifier\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "given",
    [
        ["--model", "barred.BarClassifier"],
        ["--model=barred.BarClassifier"],
        ["--model.class_path", "barred.BarClassifier"],
        ["--config", "section.yaml"],
        ["--config=short.yaml"],
        ["--config", "linetune:quickstart", "--config", "section.yaml"],
    ],
)
def test_help_is_offered_for_the_model_that_was_given(
    given: list[str], bars: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = failed("fit", *given, "--trainer.no_such", "3", capsys=capsys)
    assert message.endswith("(see fit --help, fit --model.help barred.BarClassifier, fit --model.optimizer.help CLASS)")


@pytest.mark.parametrize(
    "given", [[], ["--model", "barred.BarClasifier"], ["--model", "no_such_file.Model"], ["--config", "barred.py"]]
)
def test_help_is_offered_for_the_default_where_none_is_given_that_can_be_imported(
    given: list[str], bars: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "fit --model.help SequenceClassifier," in failed("fit", *given, "--trainer.no_such", "3", capsys=capsys)


def test_an_option_is_not_said_to_be_the_models_that_another_class_has(
    bars: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = ["fit", "--model", "barred.BarClassifier"]
    for option in ("--class_weights=balanced", "--model.class_weights=balanced"):
        assert "model.loss" not in failed(*model, option, capsys=capsys)
    message = failed(*model, "--model.adapter", "null", capsys=capsys)
    assert "model.adapter is not accepted; adapter is an argument of SequenceClassifier, another class (see" in message
    assert "; width belongs to model.width (see" in failed(*model, "--width", "4", capsys=capsys)
    message = failed(*model, "--data", "barred.Bars", "--data.task_name", "sst2", capsys=capsys)
    assert "task_name is an argument of GLUEDataModule, another class" in message
    assert "; batch_size belongs to data.batch_size (see" in failed(
        *model, "--data", "barred.Bars", "--batch_size", "4", capsys=capsys
    )
