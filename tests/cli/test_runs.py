"""Runs from a command to files and last lines."""

from __future__ import annotations

import csv
import os
import re
import textwrap
from pathlib import Path

import pytest
import yaml
from lightning.pytorch import Callback, Trainer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import cli
from tests.cli.command_line import QUICKSTART, ROOT, failed, short_run


def test_a_run_on_own_texts(tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = "".join(f"{word} number {row},{word}\n" for row in range(30) for word in ("good", "bad"))
    (tmp_path / "rows.csv").write_text(f"text,label\n{rows}")
    common = ["--config", "configs/own_data.yaml", "--config", "configs/trainer/cpu.yaml", "--model.model", tiny]
    common += ["--data.tokenizer", "offline:all-MiniLM-L6-v2", "--trainer.logger.init_args.save_dir", str(tmp_path)]
    common += ["--data.train_file", str(tmp_path / "rows.csv"), "--data.cache_dir", str(tmp_path / "cache")]
    common += ["--data.metrics", "[accuracy]", "--trainer.max_epochs", "1", "--trainer.enable_progress_bar", "false"]
    cli.main(["fit", *common])
    assert "val/accuracy" in capsys.readouterr().out
    assert (tmp_path / "own_data" / "version_0" / "checkpoints" / "best.ckpt").is_file()
    (tmp_path / "others.csv").write_text("one,two\na b,c\n")
    others = ["--data.train_file", str(tmp_path / "others.csv")]
    assert "leaves a choice; name it, of the columns one, two" in failed("fit", *common, *others, capsys=capsys)

    # The checkpoint knows columns and labels: the training rows may be gone.
    run = tmp_path / "own_data" / "version_0"
    assert {"model", "class_report.csv"} <= {path.name for path in run.iterdir()}
    (tmp_path / "rows.csv").unlink()
    (tmp_path / "new.csv").write_text("text,source\nbad number 3,mail\n")
    new = ["--data.predict_file", str(tmp_path / "new.csv"), "--trainer.enable_progress_bar", "false"]
    cli.main(["predict", "--config", str(run / "config.yaml"), "--ckpt_path", "best", *new])
    (written,) = (tmp_path / "own_data").rglob("predictions.csv")
    header, row = written.read_text().splitlines()
    assert header == "text,source,prediction,probability_bad,probability_good"
    assert row.startswith("bad number 3,mail,")


def test_a_run_from_command_to_submission(tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["--config", QUICKSTART, "--config", "configs/trainer/cpu.yaml", "--model.model", tiny]
    common += ["--data.tokenizer", "offline:all-MiniLM-L6-v2", "--trainer.logger.init_args.save_dir", str(tmp_path)]
    common += [
        "--data.max_train_samples",
        "64",
        "--data.max_eval_samples",
        "32",
        "--trainer.enable_progress_bar",
        "false",
    ]
    cli.main(["fit", *common, "--trainer.max_epochs", "1"])
    output = capsys.readouterr().out
    run = tmp_path / "quickstart" / "version_0"
    assert re.search(r"^validation +last, step 2\nval/accuracy +0\.\d{4}$", output, re.MULTILINE)
    assert "tensorboard --logdir" in output
    assert list(run.glob("events.out.tfevents.*"))
    resolved = yaml.safe_load((run / "config.yaml").read_text())
    assert resolved["model"]["init_args"]["optimizer"]["class_path"] == "optimizers.ParabolicAdam"
    (shown,) = EventAccumulator(str(run)).Reload().Tensors("configuration/text_summary")
    assert yaml.safe_load(textwrap.dedent(shown.tensor_proto.string_val[0].decode())) == resolved

    checkpoint = str(run / "checkpoints" / "best.ckpt")
    for command in ("validate", "test", "predict"):
        cli.main([command, *common, "--ckpt_path", checkpoint])
    assert "test/accuracy" in capsys.readouterr().out
    (submission,) = tmp_path.rglob("SST-2.tsv")
    lines = submission.read_text().splitlines()
    assert lines[0] == "index\tprediction"
    assert {line.split("\t")[1] for line in lines[1:]} <= {"0", "1"}
    # The resolved configuration beside the checkpoint is enough to come back.
    cli.main(["validate", "--config", str(run / "config.yaml"), "--ckpt_path", checkpoint])
    assert "val/accuracy" in capsys.readouterr().out


def test_a_run_without_a_logger_ends_with_its_metrics(
    tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--model.model", tiny, "--data.tokenizer", "offline:all-MiniLM-L6-v2", "--data.max_train_samples", "32"]
    options += ["--trainer.logger", "false", "--trainer.max_epochs", "1", "--trainer.default_root_dir", str(tmp_path)]
    for _ in range(2):  # the second run finds the first one's configuration in its place
        cli.main(["fit", "--config", QUICKSTART, *options])
        assert re.search(r"^val/loss +\d", capsys.readouterr().out, re.MULTILINE)
    assert (tmp_path / "config.yaml").is_file()


def test_a_run_has_its_own_folder_whatever_the_logger(
    tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--model.model", tiny, "--data.tokenizer", "offline:all-MiniLM-L6-v2", "--data.max_train_samples", "32"]
    options += ["--trainer.max_epochs", "1", "--trainer.logger", "tests.tiny_models.TinyLogger"]
    options += ["--trainer.logger.save_dir", str(tmp_path), "--trainer.logger.version", "a1"]
    options += ["--model.adapter", "lightning_modules.BottleneckConfig"]
    cli.main(["fit", "--config", QUICKSTART, *options])
    assert {path.name for path in (tmp_path / "tiny" / "a1").iterdir()} == {"adapter", "checkpoints", "config.yaml"}
    assert re.search(r"^configuration .*tiny/a1/config\.yaml$", capsys.readouterr().out, re.MULTILINE)


def test_a_run_may_be_within_the_users_home(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A configuration may say ~; Lightning leaves it in the paths of checkpoints (lightning 2.6.6)."""
    options = [*short_run(tiny), "--trainer.logger.save_dir", "~/runs", "--trainer.callbacks+=callbacks.ClassReport"]
    options += ["--trainer.callbacks+=callbacks.PretrainedInterpolation"]
    options += ["--model.optimizer", "torch.optim.SGD", "--model.optimizer.lr", "300"]  # each validation is worse
    monkeypatch.setenv("HOME", str(tmp_path))
    cli.main(["fit", *options, "--trainer.max_epochs", "2"])
    run = tmp_path / "runs" / "quickstart" / "version_0"
    assert {"checkpoints", "class_report.csv", "interpolation.csv", "model"} <= {path.name for path in run.iterdir()}
    assert "classes (best checkpoint, as trained)" in capsys.readouterr().out
    checkpoint = "~/runs/quickstart/version_0/checkpoints/best.ckpt"
    cli.main(["fit", *options, f"--ckpt_path={checkpoint}", "--trainer.max_epochs", "2"])
    assert re.search(
        r"^best checkpoint +\S*runs/quickstart/version_0/checkpoints/best", capsys.readouterr().out, re.MULTILINE
    )


def test_all_of_a_run_is_in_the_folder_that_a_variable_names(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SCRATCH", str(tmp_path / "scratch"))
    options = [argument.replace("configs/", f"{ROOT}/configs/") for argument in short_run(tiny)]
    options += ["--trainer.logger.save_dir", "$SCRATCH/runs"]
    monkeypatch.chdir(tmp_path)
    cli.main(["fit", *options])
    assert os.listdir() == ["scratch"]
    run = Path("scratch/runs/quickstart/version_0")
    assert {"checkpoints", "config.yaml"} <= {path.name for path in run.iterdir()}
    capsys.readouterr()
    cli.main(["validate", *options, "--ckpt_path", "last"])
    assert f"ckpt_path last: {run}/checkpoints/best.ckpt (1 found)" in capsys.readouterr().err


@pytest.mark.parametrize("logger", [[], ["--trainer.logger", "CSVLogger"], ["--trainer.logger", "false"]])
def test_a_run_that_is_refused_before_its_first_batch_leaves_nothing(
    logger: list[str],
    tiny: str,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root = str(tmp_path / "new" / "folder")
    options = [*short_run(tiny), *logger, "--trainer.default_root_dir", root]
    options[1:4:2] = ["linetune:quickstart", "linetune:trainer/cpu"]
    options += ["--trainer.logger.save_dir", root] if "CSVLogger" in logger else []
    options += ["--data.cache_dir", str(tmp_path_factory.mktemp("cache"))]
    monkeypatch.chdir(tmp_path)
    # What makes the optimizer refuses it, after the loggers have begun.
    refused = ["--model.lr_scheduler.scheduler", "lightning_modules.LinearWithWarmup"]
    message = failed("fit", *options, *refused, capsys=capsys)
    assert "lr_scheduler: ParabolicAdam finds its own step size" in message
    assert not list(tmp_path.iterdir())
    # Beside another run, what that one has written stays.
    cli.main(["fit", *options])
    before = sorted(tmp_path.rglob("*"))
    failed("fit", *options, *refused, capsys=capsys)
    assert sorted(tmp_path.rglob("*")) == before
    failed(
        "validate",
        *options,
        "--ckpt_path",
        str(next(tmp_path.rglob("*.ckpt"))),
        "--data.max_length",
        "9999",
        capsys=capsys,
    )
    assert sorted(tmp_path.rglob("*")) == before


def test_a_file_of_the_users_is_not_overwritten(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own = "# mine\nseed_everything: 3\n"
    options = [argument.replace("configs/", f"{ROOT}/configs/") for argument in short_run(tiny)]
    monkeypatch.chdir(tmp_path)
    Path("config.yaml").write_text(own)
    for _ in range(2):  # the same configuration is saved once
        cli.main(["fit", *options, "--config", "config.yaml", "--trainer.logger", "false"])
        assert "configuration     config-v1.yaml\n" in capsys.readouterr().out
    assert Path("config.yaml").read_text() == own
    assert yaml.safe_load(Path("config-v1.yaml").read_text())["seed_everything"] == 3
    written = {"config-v1.yaml", "checkpoints", "model", "model-v1"}
    assert {path.name for path in tmp_path.iterdir()} == {"config.yaml", *written}


def test_the_scores_of_the_best_checkpoint_stand_beside_the_last_ones(
    tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [*short_run(tiny), "--trainer.logger", "lightning.pytorch.loggers.CSVLogger"]
    options += ["--trainer.logger.save_dir", str(tmp_path), "--trainer.max_epochs", "3"]
    # Steps so long that the loss of later validations is higher.
    options += ["--model.optimizer", "torch.optim.SGD", "--model.optimizer.lr", "300"]
    cli.main(["fit", *options])
    output = capsys.readouterr().out
    (file,) = tmp_path.rglob("metrics.csv")
    with file.open() as lines:
        measured = [row for row in csv.DictReader(lines) if row["val/loss"]]
    best = min(range(3), key=lambda index: float(measured[index]["val/loss"]))
    assert best < 2
    heading, _, loss = output[output.index("\nvalidation ") :].splitlines()[1:4]
    assert heading.split() == ["validation", "best,", "step", str(2 * best + 2), "last,", "step", "6"]
    expected = ["val/loss", *(f"{float(measured[index]['val/loss']):.4f}" for index in (best, 2))]
    assert loss.split() == expected
    assert re.search(rf"^best checkpoint .*best\.ckpt \(val/loss {re.escape(expected[1])}\)$", output, re.MULTILINE)


def test_a_run_that_stops_early_says_why(tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = [*short_run(tiny), "--trainer.logger", "false", "--trainer.default_root_dir", str(tmp_path)]
    options += ["--trainer.max_epochs", "3", "--trainer.callbacks+=EarlyStopping"]
    options += ["--trainer.callbacks.monitor", "val/loss", "--trainer.callbacks.stopping_threshold", "100"]
    cli.main(["fit", *options])
    assert re.search(
        r"^validation +last, step 2\n(.*\n)*stopped early     .*threshold", capsys.readouterr().out, re.MULTILINE
    )


def test_a_run_of_the_default_length_says_so(tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = [*short_run(tiny), "--trainer.logger", "false", "--trainer.default_root_dir", str(tmp_path)]
    options += ["--trainer.max_epochs", "null", "--trainer.callbacks", "[tests.cli.test_runs.StopsAtOnce]"]
    cli.main(["fit", *options])
    output = capsys.readouterr().out
    assert (
        "neither trainer.max_epochs nor max_steps nor max_time is given: the run takes Lightning's 1000 epochs\n"
        in output
    )
    assert "no validation     the run has none\n" in output
    assert re.search(r"^last checkpoint .*\(not validated\)$|^best checkpoint   none", output, re.MULTILINE)


class StopsAtOnce(Callback):
    """Ends a run with its first batch."""

    def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
        trainer.should_stop = True
        trainer.limit_val_batches = 0


def test_a_run_that_ends_before_its_first_validation_says_so(
    tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--model.model", tiny, "--data.tokenizer", "offline:all-MiniLM-L6-v2", "--data.max_train_samples", "64"]
    options += ["--trainer.logger.init_args.save_dir", str(tmp_path), "--trainer.max_steps", "1"]
    cli.main(["fit", "--config", QUICKSTART, *options])
    assert "best checkpoint   none: the run ended before val/loss was logged" in capsys.readouterr().out


def test_a_debugging_run_keeps_no_checkpoint(tiny: str, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--model.model", tiny, "--data.tokenizer", "offline:all-MiniLM-L6-v2", "--trainer.fast_dev_run", "2"]
    cli.main(["fit", "--config", QUICKSTART, *options])
    assert "best checkpoint   none: fast_dev_run keeps nothing" in capsys.readouterr().out
