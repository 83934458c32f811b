"""Loss, metrics and callbacks of one's own task from the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

import cli
from lightning_modules import LossOptions, SequenceClassifier
from tests.cli.command_line import ROOT

CALLBACKS = ("ClassReport", "ConfusionMatrix", "Calibration")


def test_a_weighted_run_from_command_to_calibrated_predictions(
    tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = tmp_path / "options.yaml"
    loss = {"class_weights": {"negative": 3.0}, "label_smoothing": 0.1}
    options.write_text(yaml.safe_dump({"model": {"loss": loss}}))
    common = ["--config", "configs/quickstart.yaml", "--config", "configs/callbacks/early_stopping.yaml"]
    common += ["--config", str(options), "--model.model", tiny, "--data.tokenizer", "offline:all-MiniLM-L6-v2"]
    common += ["--data.max_train_samples", "64", "--data.max_eval_samples", "32", "--trainer.accelerator", "cpu"]
    common += ["--trainer.logger.init_args.save_dir", str(tmp_path), "--trainer.enable_progress_bar", "false"]
    for name in CALLBACKS:
        common += ["--trainer.callbacks+", f"callbacks.{name}"]
    cli.main(["fit", *common, "--trainer.max_epochs", "2"])
    printed = capsys.readouterr().out
    assert "classes (best checkpoint)" in printed
    assert "val/ece_calibrated" in printed
    run = tmp_path / "quickstart" / "version_0"
    assert (run / "class_report.csv").is_file()
    resolved = yaml.safe_load((run / "config.yaml").read_text())["model"]["init_args"]
    assert resolved["loss"] == loss

    checkpoint = run / "checkpoints" / "best.ckpt"
    temperature = torch.load(checkpoint, weights_only=True)["task"]["temperature"]
    module = SequenceClassifier.load_from_checkpoint(checkpoint)
    assert module.loss_options == LossOptions(**loss)
    assert module.temperature == temperature != 1.0
    arguments = [*common, "--ckpt_path", str(checkpoint)]
    cli.main(["predict", *arguments, "--model.calibrated_predictions", "true"])


@pytest.mark.parametrize("name", ["problem_type", "loss", "calibrated_predictions"])
def test_the_help_has_it(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["fit", "--model.help", "SequenceClassifier"])
    assert f"--model.{name} " in capsys.readouterr().out


@pytest.mark.parametrize("name", ["own_data", "quickstart"])
def test_early_stopping_and_the_best_checkpoint_go_by_the_same_value(name: str) -> None:
    def options(file: str, key: str, kind: str) -> dict:
        callbacks = yaml.safe_load((ROOT / "configs" / file).read_text())["trainer"][key]
        (found,) = [each["init_args"] for each in callbacks if each["class_path"].endswith(kind)]
        return found

    saved = options(f"{name}.yaml", "callbacks", "ModelCheckpoint")
    stopped = options("callbacks/early_stopping.yaml", "callbacks+", "Stopping")
    assert stopped["monitor"] == saved["monitor"]
    assert stopped["mode"] == saved.get("mode", "min")
