"""What the start of the command line costs, told without a clock: collections of garbage, modules, parsers, dumps."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import cli
from datamodules import tokenized_datamodule
from tests.tiny_models import save_tiny_bert

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("collects", [True, False])
def test_imports_happen_without_collections_and_are_left_alone_later(collects: bool) -> None:
    # CPython 3.11 took 1.1 s of 4.3 s for full collections during the imports, and 1.1 s more for one at exit.
    code = (
        "import gc, sys; sys.path.insert(0, sys.argv[1])\n"
        "gc.enable() if int(sys.argv[2]) else gc.disable()\n"
        "before = gc.get_stats()[2]['collections']\n"
        "import linetune\n"
        "at_linetune = gc.get_stats()[2]['collections'] - before\n"
        "import cli\n"
        "print(at_linetune, int(gc.isenabled()), int(gc.get_freeze_count() > 10 * len(gc.get_objects())))"
    )
    command = [sys.executable, "-c", code, str(ROOT), str(int(collects))]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", str(int(collects)), "1"], done.stdout


def test_help_of_a_command_imports_no_package_of_an_extra_that_it_does_not_name() -> None:
    # peft is not among them: the configurations of its adapters are types that the help lists.
    heavy = ("torch.utils.tensorboard", "onnx", "onnxruntime", "onnxscript", "ray", "torchdata", "pytorch_optimizer")
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); sys.argv[:] = ['cli.py', 'fit', '--help']\n"
        "import cli\n"
        "try:\n    cli.main()\nexcept SystemExit:\n    pass\n"
        "loaded = [name for name in sys.modules if name.startswith('transformers.models.bert.')]\n"
        f"print('loaded', [name for name in {heavy} if name in sys.modules] + loaded)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(ROOT)], capture_output=True, text=True, check=True)
    assert "--trainer.max_epochs" in done.stdout
    assert done.stdout.splitlines()[-1] == "loaded []"


@pytest.mark.parametrize(("arguments", "built"), [(["fit", "--help"], 1), (["--help"], 5), (["--version"], 5)])
def test_only_the_parser_of_the_command_that_is_run_is_built(
    arguments: list[str], built: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["cli.py"])
    prepared = []
    add = cli.LinetuneCLI.add_arguments_to_parser
    monkeypatch.setattr(
        cli.LinetuneCLI, "add_arguments_to_parser", lambda self, parser: (prepared.append(parser), add(self, parser))
    )
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert (ended.value.code, len(prepared)) == (0, built)
    if arguments == ["--help"]:
        listed = capsys.readouterr().out
        assert all(command in listed for command in ("fit", "validate", "test", "predict", "export"))


def test_a_fit_dumps_its_configuration_once_and_reads_its_tokenizer_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dumps, read = [], []
    dump, fingerprint = cli.OneLineErrorParser.dump, tokenized_datamodule.tokenizer_fingerprint

    def counted_dump(self: cli.OneLineErrorParser, *others: Any, **options: Any) -> str:
        dumps.extend([options] if options == {"skip_unset": False} else [])
        return dump(self, *others, **options)

    def counted_fingerprint(tokenizer: Any) -> str:
        read.append(tokenizer)
        return fingerprint(tokenizer)

    monkeypatch.setattr(cli.OneLineErrorParser, "dump", counted_dump)
    monkeypatch.setattr(tokenized_datamodule, "tokenizer_fingerprint", counted_fingerprint)
    model = save_tiny_bert(tmp_path / "tiny", vocab_size=30522, max_position_embeddings=128)
    small = ["--data.max_train_samples", "64", "--data.max_eval_samples", "32", "--data.cache_dir", str(tmp_path)]
    short = ["--trainer.max_steps", "1", "--trainer.limit_val_batches", "0", "--trainer.callbacks", "null"]
    folder = ["--trainer.logger.save_dir", str(tmp_path / "runs"), "--trainer.enable_progress_bar", "false"]
    offline = ["--data.tokenizer", "offline:all-MiniLM-L6-v2", "--model.model", str(model)]
    monkeypatch.setattr(sys, "argv", ["cli.py"])
    cli.main(["fit", "--config", str(ROOT / "configs/quickstart.yaml"), *offline, *small, *short, *folder])
    assert (len(dumps), len(read)) == (1, 1)
    assert list(tmp_path.rglob("config.yaml"))
