"""What the help says of the program before its options."""

from __future__ import annotations

from pathlib import Path

import pytest

import cli


@pytest.fixture(autouse=True)
def _called_as_a_script(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["cli.py"])
    monkeypatch.setenv("COLUMNS", "80")


def lines_of_help(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    with pytest.raises(SystemExit) as done:
        cli.main(list(arguments))
    assert done.value.code in (0, None)
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(
    ("arguments", "first"),
    [(["--help"], "linetune fine-tunes pretrained"), (["fit", "--help"], "Fine-tune a model on")],
)
def test_it_says_what_the_program_does_with_two_examples_in_a_line_each(
    arguments: list[str], first: str, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = lines_of_help(capsys, *arguments)
    description = lines[lines.index("") + 1 :]
    assert description[0].startswith(first)
    assert description[2] == "examples:"
    assert [line.split()[:2] for line in description[3:5]] == [["linetune", "fit"], ["linetune", "predict"]]
    assert description[3].endswith("--data.label_column kind")
    assert "Lightning Trainer command line tool" not in lines
    assert not any("subcommand ``export``" in line for line in lines)


def test_the_help_of_a_class_has_the_programs_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert lines_of_help(capsys, "fit", "--data.help", "TextDataModule")[0].startswith("usage: linetune ")
