"""Configurations on the command line: composing them, documented commands, defaults, links from data to model."""

from __future__ import annotations

import inspect
import re
import shlex
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import jsonargparse
import pytest
import yaml
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

import cli
from callbacks import ClassReport
from tests.cli.command_line import QUICKSTART, ROOT, failed, parsed

CONFIGS = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "configs").rglob("*.yaml"))
STARTS = (QUICKSTART, "configs/own_data.yaml")
OVERLAYS = [path for path in CONFIGS if path not in STARTS and not path.startswith("configs/studies/")]


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
    """What the command lines of the README and of docs/ give to cli.py or linetune."""
    start = r"^(?: {4})?(?:time |srun \S+ |torchrun --\S+ )?(?:python cli\.py|linetune|cli\.py) ([a-z].*)$"
    commands = []
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        # ```text: with a class that the page shows, which the page's own test runs.
        text = re.sub(r"^```text\n.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
        commands += re.findall(start, text.replace("\\\n", " "), re.MULTILINE)
    return commands


@pytest.mark.parametrize("command", documented_commands())
def test_every_documented_command_parses(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = shlex.split(command, comments=True)
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


def documented_benchmarks() -> list[tuple[str, str]]:
    """The modules under benchmarks/ that the README, docs/ and kept reports run, with what follows them."""
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "benchmarks" / "results").rglob("*.md")]
    texts = [page.read_text().replace("\\\n", " ") for page in pages]
    return sorted({found for text in texts for found in re.findall(r"python -m (benchmarks[\w.]+)([^\n`|]*)", text)})


@pytest.mark.parametrize(("module", "arguments"), documented_benchmarks())
def test_options_of_every_documented_benchmark_exist(module: str, arguments: str) -> None:
    path = ROOT / module.replace(".", "/")
    files = sorted(path.glob("*.py")) if path.is_dir() else [path.with_suffix(".py")]
    source = "".join(file.read_text() for file in files)
    own = arguments if module != "benchmarks.run_parts" else ""  # whose arguments are those of cli.py
    for option in re.findall(r"(?<!\S)--[a-z-]+", own):
        assert f'"{option}"' in source, f"{module} has no {option}"


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


def test_a_callback_alone_is_a_list_of_one(tiny: str) -> None:
    arguments = ["--config", QUICKSTART, "--model.model", tiny, "--data.tokenizer", "offline:all-MiniLM-L6-v2"]
    arguments += ["--trainer.logger", "false", "--trainer.callbacks", "callbacks.ClassReport"]
    built = cli.LinetuneCLI(auto_configure_optimizers=False, run=False, args=arguments)
    assert any(isinstance(callback, ClassReport) for callback in built.trainer.callbacks)


def test_a_trainer_without_extras_has_no_progress_bar(tiny: str) -> None:
    arguments = ["--model.model", tiny, "--data.task_name", "sst2", "--trainer.barebones", "true"]
    built = cli.LinetuneCLI(auto_configure_optimizers=False, run=False, args=arguments)
    assert built.trainer.progress_bar_callback is None


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
