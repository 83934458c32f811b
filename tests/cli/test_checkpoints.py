"""Checkpoints on the command line: which one is taken, and what wins over what it holds."""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
import yaml

import cli
from tests.cli.command_line import QUICKSTART, ROOT, failed, short_run


@pytest.fixture(scope="module")
def trained(tiny: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run with its configuration and its checkpoint."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        patch.setattr(sys, "argv", ["cli.py"])
        cli.main(["fit", *short_run(tiny), "--trainer.logger.init_args.save_dir", str(folder)])
    return folder / "quickstart" / "version_0"


@pytest.mark.parametrize("place", ["before", "after"])
def test_a_checkpoint_on_the_command_line_wins_over_configs(
    place: str, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, checkpoint = ["--config", str(trained / "config.yaml")], str(trained / "checkpoints/best.ckpt")
    assert "ckpt_path: null" in (trained / "config.yaml").read_text()
    given = ["--ckpt_path", checkpoint]
    given = [*given, *config] if place == "before" else [*config, *given]
    capsys.readouterr()
    cli.main(["fit", *given, "--trainer.max_epochs", "2", "--trainer.logger.init_args.save_dir", str(tmp_path)])
    assert f"resumed from {checkpoint}: epoch 1, step 2\n" in capsys.readouterr().out


def test_the_command_line_wins_over_what_a_checkpoint_holds(
    trained: Path, tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = shutil.copytree(tiny, tmp_path / "moved")
    stored = torch.load(trained / "checkpoints/best.ckpt", weights_only=False)
    stored["hyper_parameters"] |= {
        "_class_path": "tests.tiny_models.NoSuchModule",
        "model": str(tmp_path / "gone"),
        "trust_remote_code": True,
        "num_labels": 7,
    }
    torch.save(stored, tmp_path / "altered.ckpt")
    built: list[cli.LinetuneCLI] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli.LinetuneCLI, "before_validate", lambda self: built.append(self))
        arguments = ["--ckpt_path", str(tmp_path / "altered.ckpt"), "--model.model", str(moved)]
        cli.main(["validate", "--config", str(trained / "config.yaml"), *arguments])
    assert "val/accuracy" in capsys.readouterr().out
    assert built[0].model.hparams["model"] == str(moved)
    assert type(built[0].model) is cli.SequenceClassifier
    assert built[0].config.validate.model.init_args.trust_remote_code is False
    assert built[0].model.num_labels == 2


def test_what_data_does_not_say_comes_from_the_checkpoint(
    trained: Path, tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stored = torch.load(trained / "checkpoints/best.ckpt", weights_only=False)
    stored["hyper_parameters"] |= {"metrics": ["f1"]}
    torch.save(stored, tmp_path / "f1.ckpt")
    arguments = ["--model.model", tiny, "--data", "tests.tiny_models.TinyData", "--trainer.logger", "false"]
    arguments += ["--ckpt_path", str(tmp_path / "f1.ckpt"), "--trainer.default_root_dir", str(tmp_path)]
    cli.main(["validate", *arguments])
    assert "val/f1" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_a_head_drawn_at_random_is_not_evaluated(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    message = failed(command, "--config", QUICKSTART, capsys=capsys)
    assert f"error: ckpt_path: {command} needs a trained model" in message
    assert "classifier.bias" in message


def test_an_interrupted_run_goes_on_with_the_last_checkpoint(
    tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    interrupted = "{class_path: tests.callbacks.test_save_on_interrupt.Signals, init_args: {place: train, step: 1}}"
    options = [*short_run(tiny), "--trainer.logger.init_args.save_dir", str(tmp_path), "--ckpt_path", "last"]
    with pytest.raises(SystemExit) as ended:
        cli.main(["fit", *options, "--trainer.callbacks+", interrupted])
    assert ended.value.code == 143
    said = capsys.readouterr().err
    assert f"in {os.path.relpath(tmp_path / 'quickstart/*/checkpoints')}: THE RUN STARTS FROM THE BEGINNING\n" in said
    kept = os.path.relpath(tmp_path / "quickstart/version_0/checkpoints/last-interrupted.ckpt")
    assert f"interrupted by SIGTERM in epoch 0 after step 1: kept {kept}; go on by" in said

    cli.main(["fit", *options])
    output = capsys.readouterr()
    assert f"ckpt_path last: {kept} (1 found)\n" in output.err
    assert re.search(r"^resumed from .*interrupted\.ckpt: epoch 0, step 1$", output.out, re.MULTILINE)
    # A new folder, and a damaged checkpoint in it is passed over.
    newest = tmp_path / "quickstart/version_1/checkpoints/best.ckpt"
    newest.write_bytes(newest.read_bytes()[:-10])
    cli.main(["fit", *options])
    assert f"ckpt_path last: skipped {os.path.relpath(newest)}: is not whole: " in capsys.readouterr().err


def test_a_job_that_slurm_starts_again_goes_on_with_its_own_run(
    tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another job of the experiment has saved a newer checkpoint meanwhile."""
    for name in ("SLURM_ARRAY_JOB_ID", "SLURM_RESTART_COUNT", "SLURM_NTASKS_PER_NODE", "SLURM_NNODES"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"NTASKS": 1, "PROCID": 0, "LOCALID": 0, "NODEID": 0, "JOB_NAME": "fit"}.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    interrupted = "{class_path: tests.callbacks.test_save_on_interrupt.Signals, init_args: {place: train, step: 1}}"
    options = [*short_run(tiny), "--trainer.logger.init_args.save_dir", str(tmp_path)]
    options += ["--trainer.callbacks+", interrupted]
    for job in ("17", "18"):
        monkeypatch.setenv("SLURM_JOB_ID", job)
        with pytest.raises(SystemExit) as ended:
            cli.main(["fit", *options])
        assert ended.value.code == 143
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    capsys.readouterr()
    cli.main(["fit", *options])
    output = capsys.readouterr()
    kept = os.path.relpath(tmp_path / "quickstart/version_0/checkpoints/last-interrupted.ckpt")
    assert f"SLURM job 17 starts again: it goes on from {kept}\n" in output.err
    assert re.search(r"^resumed from .*version_0.*: epoch 0, step 1$", output.out, re.MULTILINE)


def test_slurms_options_that_lightning_refuses_are_one_line(
    tiny: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SLURM_NTASKS_PER_NODE", raising=False)
    monkeypatch.setenv("SLURM_JOB_NAME", "fit")
    monkeypatch.setenv("SLURM_NTASKS", "2")
    assert "Use `--ntasks-per-node=2`" in failed("fit", *short_run(tiny), capsys=capsys)


def test_a_saved_configuration_names_its_checkpoint_from_any_folder(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = [*short_run(tiny), "--trainer.logger.init_args.save_dir", "runs"]
    options[1:4:2] = ["linetune:quickstart", "linetune:trainer/cpu"]
    cli.main(["fit", *options])
    start = Path("runs/quickstart/version_0/checkpoints/best.ckpt")
    cli.main(["fit", *options, "--trainer.max_epochs", "2", "--ckpt_path", str(start)])
    config = yaml.safe_load(Path("runs/quickstart/version_1/config.yaml").read_text())
    assert config["ckpt_path"] == str(tmp_path / start)


def test_a_checkpoint_with_a_damaged_counter_is_one_line_that_names_the_file(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stored = torch.load(trained / "checkpoints/best.ckpt", weights_only=False)
    path = tmp_path / "damaged.ckpt"
    arguments = ["fit", "--config", str(trained / "config.yaml"), "--ckpt_path", str(path)]
    torch.save(stored | {"pytorch-lightning_version": "x"}, path)
    start = f"linetune: error: ckpt_path: {path}: "
    message = failed(*arguments, capsys=capsys)
    assert message == f"{start}pytorch-lightning_version of the checkpoint is 'x', not a version such as 2.6.6"
    stored["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"] = "1"
    torch.save(stored, path)
    message = failed(*arguments, capsys=capsys)
    place = "loops.fit_loop.epoch_progress.current.processed"
    assert message == f"{start}{place} of the checkpoint is '1', not a number, 0 or more"


def test_a_checkpoint_that_the_run_refuses_later_is_named_too(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stored = torch.load(trained / "checkpoints/best.ckpt", weights_only=False)
    del stored["optimizer_states"][0]["state"]
    path = tmp_path / "damaged.ckpt"
    torch.save(stored, path)
    arguments = ["fit", "--config", str(trained / "config.yaml"), "--ckpt_path", str(path)]
    arguments += ["--trainer.logger.init_args.save_dir", str(tmp_path)]
    message = failed(*arguments, capsys=capsys)
    assert f"ckpt_path: {path}: the checkpoint's state of ParabolicAdam is not whole: KeyError" in message


@pytest.mark.parametrize("command", ["fit", "validate", "predict", "export"])
def test_a_checkpoint_that_is_none_is_one_line(
    command: str, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.ckpt"
    arguments = [command, "--config", str(trained / "config.yaml"), "--ckpt_path", str(path)]
    arguments += ["--to", str(tmp_path / "model")] if command == "export" else []
    content = bytearray((trained / "checkpoints/best.ckpt").read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert f"ckpt_path: {path} is damaged: the checksum of its part" in failed(*arguments, capsys=capsys)
    torch.save({"weight": torch.ones(3)}, path)
    assert f"ckpt_path: {path} holds weights alone" in failed(*arguments, capsys=capsys)
