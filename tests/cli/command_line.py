"""Calls of the command line within a test."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

import cli

ROOT = Path(__file__).parents[2]
QUICKSTART = "configs/quickstart.yaml"


def parsed(*arguments: str, capsys: pytest.CaptureFixture[str]) -> dict:
    """The configuration that the arguments resolve to."""
    with pytest.raises(SystemExit) as done:
        cli.main([*arguments, "--print_config"])
    output = capsys.readouterr()
    assert done.value.code in (0, None), output.err
    return yaml.safe_load(output.out)


def failed(*arguments: str, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on standard error that the arguments end with."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as done:
        cli.main(list(arguments))
    assert done.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("linetune: ")]
    assert len(lines) == 1
    return lines[0]


def short_run(model: str) -> list[str]:
    """The arguments of a fit of two steps and one validation."""
    options = ["--config", QUICKSTART, "--config", "configs/trainer/cpu.yaml", "--trainer.max_epochs", "1"]
    options += ["--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"]
    options += ["--model.model", model, "--data.tokenizer", "offline:all-MiniLM-L6-v2"]
    return [*options, "--data.max_train_samples", "64", "--data.max_eval_samples", "32"]
