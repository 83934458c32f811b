"""The command line: configs that compose, runs from a command to a checkpoint, errors in one line."""

from __future__ import annotations

import csv
import inspect
import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import jsonargparse
import pytest
import torch
import yaml
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import cli
from tests.tiny_models import save_tiny_bert

ROOT = Path(__file__).parent.parent
QUICKSTART = "configs/quickstart.yaml"
CONFIGS = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "configs").rglob("*.yaml"))
STARTS = (QUICKSTART, "configs/own_data.yaml")
OVERLAYS = [path for path in CONFIGS if path not in STARTS and not path.startswith("configs/studies/")]


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    # LightningCLI warns of arguments given twice where pytest's own stand beside those of a test.
    monkeypatch.setattr(sys, "argv", ["cli.py"])


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny BERT with the vocabulary of the packaged tokenizer."""
    folder = tmp_path_factory.mktemp("tiny")
    return str(save_tiny_bert(folder, vocab_size=30522, max_position_embeddings=128))


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


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_config_parses_after_the_quickstart(overlay: str, capsys: pytest.CaptureFixture[str]) -> None:
    resolved = parsed("fit", "--config", QUICKSTART, "--config", overlay, capsys=capsys)
    own = yaml.safe_load((ROOT / overlay).read_text())
    for section in own.keys() & {"data", "model"}:
        for name, value in own[section].items():
            if isinstance(value, str | int | float) or value is None:
                assert resolved[section]["init_args"][name] == value


@pytest.mark.parametrize("written", ["{}={}", "{} {}", "{}.class_path={}"])
def test_an_argument_before_the_class_that_would_lose_it_is_one_line(
    written: str, capsys: pytest.CaptureFixture[str]
) -> None:
    choice = written.format("--model.optimizer", "torch.optim.AdamW").split()
    arguments = ["--model.optimizer.betas=[0.9, 0.99]", *choice]
    line = failed("fit", "--config", QUICKSTART, *arguments, capsys=capsys)
    assert "--model.optimizer.betas: it would be lost before --model.optimizer" in line
    resolved = parsed("fit", "--config", QUICKSTART, *choice, arguments[0], capsys=capsys)
    assert resolved["model"]["init_args"]["optimizer"]["init_args"]["betas"] == [0.9, 0.99]
    # A second choice is meant to take the arguments of the first one away.
    parsed("fit", "--config", QUICKSTART, *choice, arguments[0], "--model.optimizer=torch.optim.SGD", capsys=capsys)


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


@pytest.mark.parametrize("config", [path for path in OVERLAYS if path.startswith("configs/tasks/")])
def test_a_task_after_the_quickstart_is_the_whole_real_one(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    data = parsed("fit", "--config", QUICKSTART, "--config", config, capsys=capsys)["data"]["init_args"]
    assert data["source"] is None
    assert data["max_eval_samples"] is None
    assert data["max_train_samples"] is None or data["task_name"] == "ax"


@pytest.mark.parametrize("config", [path for path in OVERLAYS if path.startswith("configs/optimizers/")])
def test_an_optimizer_inherits_no_schedule_of_the_one_before(config: str) -> None:
    assert "lr_scheduler" in yaml.safe_load((ROOT / config).read_text())["model"]


def test_configs_of_every_folder_compose(capsys: pytest.CaptureFixture[str]) -> None:
    one_of_each = ["configs/trainer/cpu.yaml", "configs/tasks/mrpc.yaml", "configs/optimizers/adamw.yaml"]
    for order in (one_of_each, one_of_each[::-1]):
        options = [argument for config in order for argument in ("--config", config)]
        resolved = parsed("fit", "--config", QUICKSTART, *options, capsys=capsys)
        assert resolved["data"]["init_args"]["task_name"] == "mrpc"
        assert resolved["model"]["init_args"]["optimizer"]["class_path"] == "torch.optim.AdamW"
        assert resolved["trainer"]["accelerator"] == "cpu"


def documented_commands() -> list[str]:
    """The cli.py commands in the code blocks of the README and of docs/."""
    commands = []
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        for block in re.findall(r"```(?:bash|console|sh)\n(.*?)```", page.read_text(), re.DOTALL):
            commands += re.findall(r"^python (cli\.py .*?)$", block.replace("\\\n", " "), re.MULTILINE)
    return commands


@pytest.mark.parametrize("command", documented_commands())
def test_every_documented_command_parses(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = shlex.split(command, comments=True)[1:]
    if "--ckpt_path" in arguments:  # names a checkpoint of the reader's own
        at = arguments.index("--ckpt_path")
        del arguments[at : at + 2]
    if arguments[0] == "export":  # whose configuration is the one beside the checkpoint
        arguments += ["--config", QUICKSTART]
    if any("runs/" in argument and argument.endswith("config.yaml") for argument in arguments):
        # runs/NAME/version_0/config.yaml is what a run of configs/NAME.yaml leaves.
        arguments = [re.sub(r"^runs/(\w+)/.*", r"configs/\1.yaml", argument) for argument in arguments]
    if any(argument.endswith("help") for argument in arguments):
        with pytest.raises(SystemExit) as done:
            cli.main(arguments)
        assert done.value.code in (0, None)
        return
    assert parsed(*arguments, capsys=capsys)["model"]["class_path"]


def test_every_argument_of_model_and_data_has_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    for section, default in (
        ("model", "SequenceClassifier"),
        ("data", "GLUEDataModule"),
        ("data", "datamodules.TextDataModule"),
    ):
        with pytest.raises(SystemExit):
            cli.main(["fit", f"--{section}.help", default])
        text = " ".join(capsys.readouterr().out.split("\n\n", 2)[2].split())
        entries = re.split(rf"(?= --{section}\.\w+ (?!\[?CLASS))", text)[1:]
        assert len(entries) > 8
        for entry in entries:
            sentence = re.split(r"\((?:required, )?type:", entry)[0].strip()
            assert re.search(r" [A-Z].*\.$", sentence), f"no sentence: {entry}"


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


def test_another_class_starts_from_its_own_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    def arguments_of(*arguments: str) -> dict:
        resolved = parsed("fit", "--config", QUICKSTART, *arguments, capsys=capsys)
        return resolved["model"]["init_args"]["optimizer"]["init_args"]

    salsa = arguments_of("--model.optimizer", "optimizers.SaLSA", "--model.optimizer.growth", "1.2")
    assert (salsa["initial_step_size"], salsa["c"], salsa["shrink"], salsa["growth"]) == (1.0, 0.5, 0.8, 1.2)
    adamw = arguments_of("--model.optimizer", "torch.optim.AdamW", "--model.optimizer.lr", "1e-4")
    assert (adamw["lr"], adamw["weight_decay"]) == (1e-4, 0.01)
    back = ["--config", "configs/optimizers/salsa.yaml", "--config", "configs/optimizers/adam_sls.yaml"]
    assert arguments_of(*back)["growth"] == 2.0


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


def test_another_model_class_takes_the_place_of_the_default(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--model", "lightning.pytorch.demos.boring_classes.BoringModel"]
    resolved = parsed("fit", *arguments, capsys=capsys)
    assert resolved["model"]["class_path"] == "lightning.pytorch.demos.boring_classes.BoringModel"


def test_numbers_of_the_data_reach_the_model(tiny: str) -> None:
    arguments = ["--config", QUICKSTART, "--model.model", tiny, "--data.task_name", "mnli"]
    arguments += ["--model.pretrained", "false", "--data.tokenizer", "offline:all-MiniLM-L6-v2"]
    built = cli.LinetuneCLI(auto_configure_optimizers=False, run=False, args=arguments)
    assert built.model.num_labels == 3
    assert built.model.eval_set_names == ("matched", "mismatched")
    assert list(built.model.model.config.label2id) == ["entailment", "neutral", "contradiction"]


def test_what_a_data_module_of_ones_own_does_not_say_is_said_to_the_model(tiny: str) -> None:
    arguments = ["--data", "tests.tiny_models.TinyData", "--model.model", tiny, "--model.pretrained", "false"]
    arguments += ["--model.num_labels", "5", "--model.metrics", "[f1]"]
    built = cli.LinetuneCLI(auto_configure_optimizers=False, run=False, args=arguments)
    assert built.model.num_labels == 5
    assert list(built.model.hparams["metrics"]) == ["f1"]


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
        (["--trainer.accumulate_grad_batches", "2"], r"trainer\.accumulate_grad_batches: .* give model\.acc"),
        (["--trainer.gradient_clip_val", "1.0"], r"trainer\.gradient_clip_val: .* give model\.gradient_clip"),
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
        (["--lr", "1e-3"], r"arguments: --lr 1e-3; lr belongs to model\.optimizer\.init_args\.lr"),
        (["--learning_rate=1e-3"], r"learning_rate belongs to model\.optimizer\.init_args\.lr"),
        (["--model.lr", "1e-3"], r"model\.lr is not accepted; lr belongs to model\.optimizer\.init_args\.lr"),
        (["--model.optimizer.lr", "1e-3"], r"model\.optimizer\.lr is not accepted \(see|; (close|allowed)"),
        (["--max_epochs", "3"], r"max_epochs belongs to trainer\.max_epochs \(see"),
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


# Faults of jsonargparse that we mend. Where the second half of a test fails, jsonargparse has mended it itself.


def optimizer_after_another(capsys: pytest.CaptureFixture[str]) -> dict:
    resolved = parsed(
        *("fit", "--config", "configs/optimizers/adam_sls.yaml", "--model.optimizer", "optimizers.SaLSA"), capsys=capsys
    )
    return resolved["model"]["init_args"]["optimizer"]["init_args"]


def test_jsonargparse_still_hands_arguments_from_class_to_class(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (optimizer_after_another(capsys)["c"], optimizer_after_another(capsys)["shrink"]) == (0.5, 0.8)
    monkeypatch.setattr(cli, "own_defaults", nullcontext)
    inherited = optimizer_after_another(capsys)
    assert (inherited["c"], inherited["shrink"]) != (0.5, 0.8), "own_defaults can go: jsonargparse does this itself"


@pytest.mark.parametrize("where", ["command line", "block on the command line", "file of the list", "config"])
def test_jsonargparse_still_hands_arguments_from_list_to_list(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """jsonargparse 4.53.0 lets a list's elements inherit from those of another list, if both are equally long."""
    checkpoint = "{class_path: lightning.pytorch.callbacks.ModelCheckpoint, init_args: {every_n_train_steps: 3}}"
    exporter = "{class_path: callbacks.ModelExporter}"
    as_block = f"- {checkpoint}\n- {exporter}\n"
    (tmp_path / "list.yaml").write_text(as_block)
    (tmp_path / "config.yaml").write_text(f"trainer:\n  callbacks: [{checkpoint}, {exporter}]\n")
    given = {
        "command line": ["--trainer.callbacks", f"[{checkpoint}, {exporter}]"],
        "block on the command line": ["--trainer.callbacks", as_block],
        "file of the list": ["--trainer.callbacks", str(tmp_path / "list.yaml")],
        "config": ["--config", str(tmp_path / "config.yaml")],
    }

    def arguments() -> dict[str, Any]:
        callbacks = parsed("fit", "--config", QUICKSTART, *given[where], capsys=capsys)["trainer"]["callbacks"]
        assert len(callbacks) == 2
        return callbacks[0]["init_args"]

    defaults = {name: each.default for name, each in inspect.signature(ModelCheckpoint).parameters.items()}
    assert arguments() == defaults | {"every_n_train_steps": 3}
    monkeypatch.setattr(cli, "own_defaults", nullcontext)
    assert arguments()["monitor"] == "val/loss", "own_defaults can go: jsonargparse does this itself"


def test_a_list_of_loggers_starts_from_their_own_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    first = "[{class_path: lightning.pytorch.loggers.CSVLogger, init_args: {save_dir: runs, name: first}}]"
    second = "[{class_path: lightning.pytorch.loggers.CSVLogger, init_args: {save_dir: runs}}]"
    given = ["--trainer.logger", first, "--trainer.logger", second]
    (logger,) = parsed("fit", "--config", QUICKSTART, *given, capsys=capsys)["trainer"]["logger"]
    assert logger["init_args"]["name"] == inspect.signature(CSVLogger).parameters["name"].default


def test_one_argument_of_a_callback_leaves_the_others_alone(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor", "val/loss"]
    arguments += ["--trainer.callbacks.patience", "5"]
    checkpoint, _, stopping = parsed("fit", "--config", QUICKSTART, *arguments, capsys=capsys)["trainer"]["callbacks"]
    assert checkpoint["init_args"]["filename"] == "best"
    assert (stopping["init_args"]["monitor"], stopping["init_args"]["patience"]) == ("val/loss", 5)


def test_another_jsonargparse_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(jsonargparse._typehints, "raise_union_unexpected_value")
    with pytest.raises(RuntimeError, match=r"jsonargparse 4\.\d+.*raise_union_unexpected_value"):
        cli.main(["fit", "--print_config"])


# Checkpoints


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


# Files and the last lines of a run


def short_run(model: str) -> list[str]:
    options = ["--config", QUICKSTART, "--config", "configs/trainer/cpu.yaml", "--trainer.max_epochs", "1"]
    options += ["--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"]
    options += ["--model.model", model, "--data.tokenizer", "offline:all-MiniLM-L6-v2"]
    return [*options, "--data.max_train_samples", "64", "--data.max_eval_samples", "32"]


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
        # Known by nobody before the first validation: a callback may log it.
        (
            ["--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor", "val/f1"],
            "trainer.callbacks: Early stopping conditioned on metric `val/f1` which is not available.",
        ),
    ],
)
def test_what_is_watched_and_never_logged_is_one_line(
    watching: list[str], expected: str, tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [*short_run(tiny), "--trainer.logger", "false", "--trainer.default_root_dir", str(tmp_path)]
    assert expected in failed("fit", *options, *watching, capsys=capsys)
    assert any(tmp_path.iterdir()) == ("is not available" in expected)  # a name that is misspelled costs no epoch


def test_a_run_of_the_default_length_says_so(tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = [*short_run(tiny), "--trainer.logger", "false", "--trainer.default_root_dir", str(tmp_path)]
    options += ["--trainer.max_epochs", "null", "--trainer.callbacks", "[tests.test_cli.StopsAtOnce]"]
    cli.main(["fit", *options])
    output = capsys.readouterr().out
    assert (
        "neither trainer.max_epochs nor max_steps nor max_time is given: the run takes Lightning's 1000 epochs\n"
        in output
    )
    assert "no validation     the run ended before its first one\n" in output
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


def test_an_unwritable_output_folder_is_one_line(tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("in the way")
    options = ["--model.model", tiny, "--data.tokenizer", "offline:all-MiniLM-L6-v2"]
    options += ["--trainer.logger.init_args.save_dir", str(tmp_path / "file")]
    message = failed("fit", "--config", QUICKSTART, *options, capsys=capsys)
    assert str(tmp_path / "file") in message


def test_the_program_ends_with_status_2_and_no_traceback() -> None:
    done = subprocess.run(
        [sys.executable, "cli.py", "fit", "--data.task_name", "sst3"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "linetune: error:" in done.stderr
