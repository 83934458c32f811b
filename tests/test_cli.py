"""The front door: configs that compose, runs from a command to a checkpoint, errors in one line."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

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
    if any("runs/" in argument and argument.endswith("config.yaml") for argument in arguments):
        arguments = [QUICKSTART if argument.startswith("runs/") else argument for argument in arguments]
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
    cli.main(["fit", *common, "--data.text_columns", "text", "--data.label_column", "label"])
    assert "val/accuracy" in capsys.readouterr().out
    assert (tmp_path / "own_data" / "version_0" / "checkpoints" / "best.ckpt").is_file()
    assert "leaves a choice; name it, of the columns text, label" in failed("fit", *common, capsys=capsys)


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
    assert re.search(r"^last validation\nval/accuracy +0\.\d{4}$", output, re.MULTILINE)
    assert "tensorboard --logdir" in output
    assert list(run.glob("events.out.tfevents.*"))
    resolved = yaml.safe_load((run / "config.yaml").read_text())
    assert resolved["model"]["init_args"]["optimizer"]["class_path"] == "optimizers.ParabolicAdam"

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
    options += ["--model.adapter", "lightning_modules.BottleneckConfig", "--trainer.callbacks+=callbacks.AdapterSaver"]
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


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--model.optimiser=x"], r"'optimiser' is not accepted; close to it: optimizer"),
        (["--model.optimizer", "NoSuch"], r"NoSuch.*allowed: .*optimizers\.AdamSLS"),
        (["--model.optimizer", "optimizers.AdamSL"], r"AdamSL.*allowed: .*optimizers\.AdamSLS"),
        (["--model.optimizer", "torch.optim.SGD", "--model.optimizer.lrr", "1"], r"'lrr' is not accepted.*: lr"),
        (["--data.task_name", "sst3"], r"sst3.*sst2"),
        (["--data.data_dir", "/no/such/folder"], r"/no/such/folder"),
        (["--config", "configs/nothing.yaml"], r"configs/nothing.yaml"),
        (["--model.model", "no/such-model"], r"no configuration found for 'no/such-model'"),
        (["--trainer.accelerator", "abacus"], r"abacus"),
        (["--ckpt_path", "nothing.ckpt"], r"nothing.ckpt"),
        (["--ckpt_path", "README.md"], r"ckpt_path: README.md is not a checkpoint"),
        (["--data.max_length", "100000"], r"100000.*512"),
        (["--model.optimizer.c", "abc"], r"error: model\.optimizer\.c: expected float, got abc \(see"),
        (["--trainer.precision", "fp8"], r"error: trainer\.precision: expected .*'bf16-mixed'.*, got fp8 \(see"),
        (["--trainer.callbacks+=EarlyStopping"], r"arguments are required: monitor \(see"),
        (["--model.num_labels", "3"], r"model\.num_labels: it is taken from datamodules\.GLUEDataModule"),
        (["--trainer.accumulate_grad_batches", "2"], r"trainer\.accumulate_grad_batches: .* give model\.acc"),
        (["--trainer.gradient_clip_val", "1.0"], r"trainer\.gradient_clip_val: .* give model\.gradient_clip_val"),
        (["--trainer.devices", "none"], r"devices"),
        (["--trainer.val_check_interval", "100"], r"val_check_interval.*100"),
        (["--seed_everything", "-1"], r"-1 is not in bounds"),
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
        ("trainer:\n  max_epochs: three\n", r"trainer\.max_epochs: expected int, got three"),
        ("model:\n  optimzer:\n    class_path: optimizers.SaLSA\n", r"'optimzer\.class_path'.*close to it: optimizer"),
        ("modell:\n  model: x\n", r"'modell\.model'; close to it: model"),
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


def test_a_bug_is_not_hidden_by_the_file_error_that_was_being_handled() -> None:
    def buggy() -> None:
        try:
            Path("no/such/file").read_text()
        except FileNotFoundError:
            {}["bug"]

    with pytest.raises(KeyError) as raised:
        buggy()
    assert isinstance(raised.value.__context__, FileNotFoundError)
    assert cli.user_error(raised.value) is None


def test_what_a_package_that_is_missing_says_is_passed_on() -> None:
    tried = "Does not validate\nErrors:\n  - Problem with 'a.Logger':\n      pip install it\n  - Expected a <x>"
    assert cli.refusal(tried) == "Problem with 'a.Logger': pip install it"


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
