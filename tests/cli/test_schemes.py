"""Schemes from the command line: several configs in one run, what the run leaves behind, and refusals in one line."""

from __future__ import annotations

import csv
from pathlib import Path

import peft
import pytest
from transformers import AutoModelForSequenceClassification

import cli
from tests.cli.command_line import ROOT

# What has to come before the configs of schemes; their paths are relative to the project.
QUICKSTART = ["--config", str(ROOT / "configs/quickstart.yaml"), "--config", str(ROOT / "configs/trainer/cpu.yaml")]


@pytest.fixture
def common(tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A short run of a tiny model in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    return [
        *QUICKSTART,
        *("--model.model", tiny, "--data.tokenizer", "offline:all-MiniLM-L6-v2"),
        *("--data.max_train_samples", "64", "--data.max_eval_samples", "16", "--trainer.max_epochs", "3"),
        *("--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"),
    ]


def scheme(name: str) -> list[str]:
    return ["--config", str(ROOT / "configs" / f"{name}.yaml")]


def test_configs_of_schemes_compose_in_one_run(common: list[str], tmp_path: Path) -> None:
    names = ("schemes/gradual_unfreezing", "schemes/differential", "schemes/adapter", "loggers/csv")
    cli.main(["fit", *common, *(argument for name in names for argument in scheme(name))])

    with (tmp_path / "runs/csv/version_0/metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    parts = [float(row["train/trainable_parts"]) for row in rows if row["train/trainable_parts"]]
    assert parts == [1, 1, 2, 2, 3, 3]
    assert sum(bool(row["train/loss"]) for row in rows) == 6
    assert sum(bool(row["val/accuracy"]) for row in rows) == 3
    run = tmp_path / "runs/quickstart/version_0"
    assert {path.name for path in (run / "adapter").iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}

    # The resolved configuration makes the same model again; the adapter's folder does as well.
    cli.main(["validate", "--config", str(run / "config.yaml"), "--ckpt_path", str(run / "checkpoints/best.ckpt")])
    cli.main(["validate", *common, "--model.adapter", str(run / "adapter")])


def test_lora_from_the_command_line_is_readable_by_peft_and_transformers(
    common: list[str], tiny: str, tmp_path: Path
) -> None:
    cli.main(["fit", *common, *scheme("schemes/fixed"), *scheme("schemes/lora"), "--trainer.max_epochs", "1"])
    run = tmp_path / "runs/quickstart/version_0"
    config = peft.PeftConfig.from_pretrained(str(run / "adapter"))
    assert config.peft_type == "LORA"
    assert config.base_model_name_or_path == tiny
    assert AutoModelForSequenceClassification.from_pretrained(run / "model").num_labels == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (scheme("schemes/triangular"), "ParabolicAdam finds its own step size"),
        ([*scheme("schemes/adapter"), "--model.adapter.size", "0"], "model.adapter: size: 0 is not allowed"),
        ([*scheme("schemes/adapter"), "--model.adapter.width", "4"], "width is not accepted; allowed: activation"),
        (["--model.adapter", "no/such/folder"], "no adapter_config.json in 'no/such/folder'"),
        (
            [*scheme("schemes/gradual_unfreezing"), "--trainer.callbacks.every_n_epochs", "0"],
            "error: trainer.callbacks: GradualUnfreezing: every_n_epochs: 0",
        ),
        (["--model.param_groups.units", "parts"], "model.param_groups.units: expected"),
        (["--model.param_groups.weight_decay", "-1"], "model.param_groups: weight_decay: -1.0 is not allowed"),
        (["--model.param_groups.units", "99"], "99 bundles are more than the 4 parts"),
        (["--model.param_groups.lrs", "{head: 0.1}"], "cannot be given learning rates"),
    ],
)
def test_bad_input_is_one_line(
    common: list[str], arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    capsys.readouterr()
    with pytest.raises(SystemExit) as done:
        cli.main(["fit", *common, *arguments])
    assert done.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("linetune: ")]
    assert len(lines) == 1
    assert message in lines[0]
    assert not list(tmp_path.glob("runs/**/*.ckpt"))
