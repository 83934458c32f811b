"""Errors on the command line: one line for what a user can mend, a traceback for a bug."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.optim import SGD, Optimizer

import cli
from tests.cli.command_line import QUICKSTART, ROOT, failed, short_run


def made_by_a_function(groups: list[dict]) -> Optimizer:
    return SGD(groups)


@pytest.mark.parametrize(
    ("callback", "argument", "line"),
    [
        ("StepSizeMonitor", "every_n_steps=0", "every_n_steps: 0 is not allowed; at least 1"),
        ("TrainingSeconds", "max_seconds=0", "max_seconds: 0.0 is not allowed; a number above 0"),
        ("ScheduleBySeconds", "warmup=1", "warmup: 1.0 is not allowed; a share of the budget"),
    ],
)
def test_an_argument_that_a_callback_refuses_is_one_line(
    callback: str, argument: str, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [f"--trainer.callbacks+=callbacks.{callback}", f"--trainer.callbacks.{argument}"]
    assert line in failed("fit", "--config", QUICKSTART, *arguments, capsys=capsys)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--model.optimiser=x"], r"model\.optimiser is not accepted; close to optimiser: optimizer"),
        (
            ["--model.optimizer", "NoSuch"],
            r"model\.optimizer: expected Callable.*, got 'NoSuch'; allowed: .*optimizers\.SaLSA,.*--help",
        ),
        (["--model.optimizer", "optimizers.AdamSL"], r"model\.optimizer: .*'AdamSL'; allowed: .*optimizers\.AdamSLS"),
        (
            ["--model.optimizer", "torch.optim.SGD", "--model.optimizer.lrr", "1"],
            r"model\.optimizer\.lrr is not accepted; close to lrr: lr \(see",
        ),
        (["--data.task_name", "sst3"], r"error: data: .*sst3.*sst2"),
        (["--data.data_dir", "/no/such/folder"], r"/no/such/folder"),
        (["--config", "configs/nothing.yaml"], r"configs/nothing.yaml"),
        (["--model.model", "no/such-model"], r"error: model: .*no configuration found for 'no/such-model'"),
        (["--trainer.accelerator", "abacus"], r"error: trainer: .*abacus.*cpu"),
        (["--ckpt_path", "nothing.ckpt"], r"ckpt_path: nothing.ckpt does not exist"),
        (["--ckpt_path", ""], r"ckpt_path: '' is not allowed; the path of a checkpoint, or last"),
        (["--ckpt_path", "best"], r"ckpt_path: 'best' is not allowed; the path of a checkpoint, or last"),
        (["--ckpt_path", "hpc"], r"error: ckpt_path: .*no HPC checkpoint was found"),
        (["--data.train_batch_size", "1000000000000000000000"], r"train_batch_size 1000+ is out of range: at most 9"),
        (["--ckpt_path", "README.md"], r"ckpt_path: README.md is not a checkpoint"),
        (["--data.max_length", "100000"], r"100000.*512"),
        (["--model.optimizer.eps", "abc"], r"error: model\.optimizer\.eps: expected float, got 'abc' \(see"),
        (["--model.optimizer.c", "0.9"], r"model\.optimizer\.c is not accepted; now peak_fraction = 2 \(1 - c\)"),
        (["--model.lr_scheduler_interval", "epoch"], r"interval is not accepted; now model\.lr_scheduler\.interval"),
        (["--model.gradient_clip_val", "1.0"], r"val is not accepted; now model\.gradient_clip\.value"),
        (["--model.lr_scheduler", "lightning_modules.Triangular"], r"now model\.lr_scheduler\.scheduler takes"),
        (["--trainer.precision", "fp8"], r"error: trainer\.precision: expected .*'bf16-mixed'.*, got 'fp8' \(see"),
        (["--trainer.callbacks+=EarlyStopping"], r"trainer\.callbacks: EarlyStopping: .* required: monitor \(see"),
        (["--model.num_labels", "3"], r"model\.num_labels: it is taken from datamodules\.GLUEDataModule"),
        (["--trainer.accumulate_grad_batches", "2"], r"trainer\.accumulate_grad_batches: .* --model\.acc"),
        (["--trainer.gradient_clip_val", "1.0"], r"trainer\.gradient_clip_val: .* --model\.gradient_clip"),
        (["--trainer.devices", "none"], r"error: trainer: .*devices"),
        (["--trainer.val_check_interval", "100"], r"error: trainer\.val_check_interval: 100 is not allowed: "),
        (["--seed_everything", "-1"], r"error: seed_everything: -1 is not allowed; 0 to 4294967295"),
        (
            ["--model.param_groups.units", "parts"],
            r"model\.param_groups\.units: expected .*'layer'.* int\], got 'parts' \(see",
        ),
        (
            ["--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.patience", "x"],
            r"callbacks\.patience: expected int",
        ),
        (["--model.metrics", "[accuracy]"], r"model\.metrics: it is taken from datamodules\.GLUEDataModule"),
        (
            ["--model.optimizer", "tests.cli.test_errors.made_by_a_function", "--model.optimizer.lr", "0.1"],
            r"model\.optimizer\.lr: it is an argument of a class, .*; a function takes none from a configuration \(see",
        ),
        (["--lr", "1e-3"], r"arguments: --lr 1e-3; lr belongs to model\.optimizer\.init_args\.lr"),
        (["--learning_rate=1e-3"], r"learning_rate belongs to model\.optimizer\.init_args\.lr"),
        (["--model.lr", "1e-3"], r"model\.lr is not accepted; lr belongs to model\.optimizer\.init_args\.lr"),
        (["--model.optimizer.lr", "1e-3"], r"model\.optimizer\.lr is not accepted \(see|; (close|allowed)"),
        (["--max_epochs", "3"], r"max_epochs belongs to trainer\.max_epochs \(see"),
        (
            ["--trainer.callbacks+=callbacks.ModelExporter", "--trainer.callbacks.monitor", "val/accuracy"],
            r"callbacks\.monitor is not accepted; it goes to the last callback of the list, which has folder, onnx;",
        ),
        (
            ["--trainer.callbacks+=callbacks.ModelExporter", "--trainer.callbacks.onx", "true"],
            r"callbacks\.onx is not accepted; it goes to the last callback of the list, which has onnx; a list",
        ),
        (["--optimizer", "SaLSA"], r"optimizer belongs to model\.optimizer \(see"),
        (["--optimizer.lr", "1e-3"], r"optimizer belongs to model\.optimizer \(see"),
        (["--accumulate_grad_batches=2"], r"; accumulate_grad_batches belongs to model\.accumulate_grad_batches \(see"),
        (["--model.class_weights", "balanced"], r"; class_weights belongs to model\.loss\.class_weights \(see"),
        (["--class_weights=balanced"], r"; class_weights belongs to model\.loss\.class_weights \(see"),
        (["--model.lr_decay", "0.9"], r"; lr_decay belongs to model\.param_groups\.lr_decay \(see"),
        (["--model.class_weight", "balanced"], r"; close to class_weight: model\.loss\.class_weights \(see"),
        (["--epochs", "3"], r"; close to epochs: trainer\.(max_epochs|min_epochs), "),
        (["--batch_size", "8"], r"; close to batch_size: data\.(eval|train)_batch_size, data\.(eval|train)_batch_size"),
        (
            ["--data", "datamodules.TextDataModule", "--data.label_names", "[no, yes]"],
            r"data\.label_names: expected a text, got False; YAML reads yes, no, .*: write it in quotes",
        ),
        (["--data", "datamodules.TextDataModule", "--data.text_columns", "[1, 2]"], r"expected a text, got 1; YAML"),
        (["--model.task_name", "sst2"], r"model\.task_name is not accepted; task_name belongs to data\.task_name"),
        (
            ["--data", "datamodules.TextDataModule", "--data.max_train_samples", "64"],
            r"data\.max_train_samples is not accepted; max_train_samples is an argument of GLUEDataModule, another",
        ),
        (
            ["--data.train_file", "a.csv"],
            r"train_file is an argument of TextDataModule, .*: --data datamodules\.Text",
        ),
        (["--trainer.logger", "WandbLogger"], r"error: trainer\.logger: .*wandb"),
        (["--model.optimizer.weight_decay", "-1"], r"error: optimizer: ParabolicAdam: weight_decay: -1.0 is not"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--trainer.logger", "false", "--trainer.enable_checkpointing", "false", "--trainer.callbacks", "[]"]
    options += ["--trainer.default_root_dir", str(tmp_path)]
    message = failed("fit", "--config", QUICKSTART, *options, *arguments, capsys=capsys)
    assert re.search(expected, message), message


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("trainer:\n  max_epochs: three\n", r"trainer\.max_epochs: expected Optional\[int\], got 'three' \(see"),
        (
            "model:\n  optimzer:\n    class_path: optimizers.SaLSA\n",
            r"broken\.yaml: model\.optimzer\.class_path is not accepted; close to optimzer: optimizer",
        ),
        (
            "model:\n  lr_scheduler:\n    class_path: lightning_modules.LinearWithWarmup\n    init_args: {}\n",
            r"broken\.yaml: model\.lr_scheduler: .*now model\.lr_scheduler\.scheduler takes the class",
        ),
        ("modell:\n  model: x\n", r"modell\.model is not accepted; close to modell: model"),
        (
            "model:\n  lr: 0.1\n",
            r"broken\.yaml: model\.lr is not accepted; lr belongs to model\.optimizer\.init_args\.lr",
        ),
        ("trainer:\n  max_epoch: 3\n", r"trainer\.max_epoch is not accepted; close to max_epoch: max_epochs"),
        ("data:\n  init_args: [1]\n", r"broken\.yaml: data: \{'init_args': \[1\]\} is not allowed"),
        ("model:\n  optimizer: {class_path: [1]}\n", r"model\.optimizer: \{'class_path': \[1\]\} is not allowed"),
        ("trainer: [1, 2\n", r"broken\.yaml: .*line 2"),
        ("", r"broken\.yaml: "),
    ],
)
def test_a_broken_config_is_one_line(
    content: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.yaml").write_text(content)
    message = failed("fit", "--config", QUICKSTART, "--config", str(tmp_path / "broken.yaml"), capsys=capsys)
    assert re.search(expected, message), message


@pytest.mark.parametrize(("section", "shown"), [("3", "3"), ("", "None"), ("[a]", r"\['a'\]")])
def test_a_trainer_that_is_no_section_is_one_line(
    section: str, shown: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "alone.yaml").write_text(f"trainer: {section}\ndata:\n  task_name: sst2\n")
    message = failed("fit", "--config", str(tmp_path / "alone.yaml"), capsys=capsys)
    assert re.search(rf"error: trainer: {shown} is not allowed; a section with the trainer's arguments$", message)


def test_a_config_that_is_not_utf8_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "latin.yaml").write_bytes("# größer\nseed_everything: 1\n".encode("latin-1"))
    message = failed("fit", "--config", QUICKSTART, "--config", str(tmp_path / "latin.yaml"), capsys=capsys)
    assert re.search(r"latin\.yaml: not UTF-8 text, at byte 4", message), message


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A file of the user's own with a bug in each class."""
    (tmp_path / "own_classes.py").write_text(
        "from lightning.pytorch import Callback\n"
        "class Buggy(Callback):\n    def __init__(self, word: str = 'spam'): ['egg'].index(word)\n"
        "class Reader(Callback):\n    def on_fit_start(self, trainer, module): open('no/such/file')\n"
        "class Raiser(Callback):\n    def on_fit_start(self, trainer, module): raise ValueError('`precision`: mine')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    return "own_classes"


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [("Buggy", ValueError, "'spam'"), ("Reader", FileNotFoundError, "no/such/file"), ("Raiser", ValueError, "mine")],
)
def test_a_bug_in_a_class_of_ones_own_keeps_its_traceback(
    name: str, error: type[Exception], message: str, own_module: str, tiny: str, tmp_path: Path
) -> None:
    options = [*short_run(tiny), "--trainer.logger", "false", "--trainer.default_root_dir", str(tmp_path)]
    with pytest.raises(error, match=message) as raised:
        cli.main(["fit", *options, "--trainer.precision", "32", f"--trainer.callbacks+={own_module}.{name}"])
    assert type(raised.value) is error
    places = [
        str(entry.path)
        for link in chain_of(raised.value)
        for entry in pytest.ExceptionInfo.from_exception(link).traceback
    ]
    assert any(place.endswith("own_classes.py") for place in places)


def chain_of(error: BaseException | None) -> list[BaseException]:
    """An error with what it was raised from, of a union's types the first."""
    return [] if error is None else [error, *chain_of(error.__cause__)]


def test_a_bug_in_our_own_code_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch, tiny: str, tmp_path: Path) -> None:
    def buggy(*_: object, **__: object) -> None:
        int("spam")

    monkeypatch.setattr("lightning_modules.sequence_classifier.load_sequence_classifier", buggy)
    with pytest.raises(ValueError, match="spam"):
        cli.main(["fit", *short_run(tiny), "--trainer.default_root_dir", str(tmp_path)])


def test_a_traceback_comes_with_a_variable_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["fit", "--data.task_name", "sst3"]
    monkeypatch.setenv("JSONARGPARSE_DEBUG", "1")
    assert "JSONARGPARSE_DEBUG: '1' is not allowed; true or false" in failed(*arguments, capsys=capsys)
    monkeypatch.setenv("JSONARGPARSE_DEBUG", "false")
    assert "sst3" in failed(*arguments, capsys=capsys)
    monkeypatch.setenv("JSONARGPARSE_DEBUG", "true")
    with pytest.raises(MisconfigurationException, match="sst3"):
        cli.main(arguments)
    with pytest.raises(MisconfigurationException, match="expected float"):
        cli.main(["fit", "--model.optimizer.eps", "abc"])


def test_an_argument_that_was_renamed_says_its_new_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    renamed = {"old_name": "now model.new_name"}
    monkeypatch.setattr(cli.SequenceClassifier, "renamed_arguments", renamed, raising=False)
    expected = "error: model.old_name is not accepted; now model.new_name (see"
    assert expected in failed("fit", "--model.old_name", "3", capsys=capsys)
    (tmp_path / "old.yaml").write_text("model:\n  old_name: {a: 3}\n")
    message = failed("fit", "--config", str(tmp_path / "old.yaml"), capsys=capsys)
    assert "model.old_name.a is not accepted; now model.new_name (see" in message


@pytest.mark.parametrize(
    ("watching", "expected"),
    [
        (
            ["--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor", "val_loss"],
            "trainer.callbacks: EarlyStopping: monitor: val_loss is not logged; it is called val/loss",
        ),
        (
            ["--trainer.callbacks+=ModelCheckpoint", "--trainer.callbacks.monitor", "Val_Accuracy"],
            "trainer.callbacks: ModelCheckpoint: monitor: Val_Accuracy is not logged; it is called val/accuracy",
        ),
        (
            [
                "--model.optimizer=torch.optim.SGD",
                "--model.lr_scheduler.scheduler=torch.optim.lr_scheduler.ReduceLROnPlateau",
                "--model.lr_scheduler.monitor=train_loss",
            ],
            "model.lr_scheduler.monitor: train_loss is not logged; it is called train/loss",
        ),
        # Lightning's and torch's mode is min unless told otherwise.
        (
            ["--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor", "val/accuracy"],
            "trainer.callbacks: EarlyStopping: mode: min for val/accuracy, which is better when it is higher; give max",
        ),
        (
            [
                "--trainer.callbacks+=ModelCheckpoint",
                "--trainer.callbacks.monitor=val/loss",
                "--trainer.callbacks.mode=max",
            ],
            "trainer.callbacks: ModelCheckpoint: mode: max for val/loss, which is better when it is lower; give min",
        ),
        (
            [
                "--model.optimizer=torch.optim.SGD",
                "--model.lr_scheduler.scheduler=torch.optim.lr_scheduler.ReduceLROnPlateau",
                "--model.lr_scheduler.monitor=val/accuracy",
            ],
            "model.lr_scheduler.scheduler.mode: min for val/accuracy, which is better when it is higher; give max",
        ),
        # Known by nobody before the first validation: a callback may log it.
        (
            ["--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor", "val/f1"],
            "trainer.callbacks: Early stopping conditioned on metric `val/f1` which is not available.",
        ),
    ],
)
def test_what_is_watched_wrongly_is_one_line(
    watching: list[str], expected: str, tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [*short_run(tiny), "--trainer.logger", "false", "--trainer.default_root_dir", str(tmp_path)]
    assert expected in failed("fit", *options, *watching, capsys=capsys)
    assert any(tmp_path.iterdir()) == ("is not available" in expected)  # a name that is misspelled costs no epoch


def test_an_unwritable_output_folder_is_one_line(tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("in the way")
    options = ["--model.model", tiny, "--data.tokenizer", "offline:all-MiniLM-L6-v2"]
    options += ["--trainer.logger.init_args.save_dir", str(tmp_path / "file")]
    message = failed("fit", "--config", QUICKSTART, *options, capsys=capsys)
    assert str(tmp_path / "file") in message


@pytest.mark.parametrize("is_named", [True, False])
def test_a_folder_that_may_not_be_written_is_one_line(
    is_named: bool, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a logger's folder a run writes into the current one."""
    make = os.makedirs

    def refused(path: str, *arguments: object, **options: object) -> None:
        if "lightning_logs" in str(path):  # permissions do not bind root, as whom containers run tests
            raise PermissionError(errno.EACCES, "Permission denied", path)
        make(path, *arguments, **options)

    monkeypatch.setattr(os, "makedirs", refused)
    options = ["--config", str(ROOT / QUICKSTART), "--model.model", tiny, "--trainer.logger", "true"]
    options += ["--data.tokenizer", "offline:all-MiniLM-L6-v2"]
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.chdir(tmp_path if is_named else folder)
    options += ["--trainer.default_root_dir", "elsewhere"] if is_named else []
    message = failed("fit", *options, capsys=capsys)
    place = "elsewhere" if is_named else folder
    assert message.endswith(f"[Errno 13] Permission denied: '{place}/lightning_logs/version_0'")
    assert ("trainer.default_root_dir" in message) is not is_named


def test_the_program_ends_with_status_2_and_no_traceback() -> None:
    done = subprocess.run(
        [sys.executable, "cli.py", "fit", "--data.task_name", "sst3"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "linetune: error:" in done.stderr


FILES_OF_ONES_OWN = {
    "absent.Own": ("", "model: No module named 'absent'; allowed: the import path of a LightningModule, as FILE.CLASS"),
    "broken.Own": ("class Own(:", "model: invalid syntax (broken.py, line 1); allowed: "),
    "imports.Own": (
        "import os\nimport absent",
        "model: No module named 'absent' (FOLDER/imports.py, line 2); allowed: ",
    ),
    "raises.Own": ("\nabsent()", "model: name 'absent' is not defined (FOLDER/raises.py, line 2); allowed: "),
    "other.Own": ("class Own: ...", "got 'other.Own'; allowed: the import path of a LightningModule, as FILE.CLASS"),
    "other:Own": ("class Own: ...", "got 'other:Own'; allowed: the import path of a LightningModule, as FILE.CLASS"),
}


@pytest.mark.parametrize("given", FILES_OF_ONES_OWN)
def test_a_file_of_ones_own_that_cannot_be_used_is_one_line_with_its_place(
    given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text, line = FILES_OF_ONES_OWN[given]
    monkeypatch.syspath_prepend(tmp_path)
    if text:
        (tmp_path / f"{re.split('[.:]', given)[0]}.py").write_text(text)
    assert line.replace("FOLDER", os.path.relpath(tmp_path)) in failed("fit", "--model", given, capsys=capsys)


def test_data_of_ones_own_are_looked_for_in_the_same_way(capsys: pytest.CaptureFixture[str]) -> None:
    line = "data: No module named 'absent'; allowed: the import path of a LightningDataModule, as FILE.CLASS"
    assert line in failed("fit", "--data", "absent.Own", capsys=capsys)
