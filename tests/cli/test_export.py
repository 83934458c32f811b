"""The way out from the command line: export, the hub, the best checkpoint of a run, configs by name."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from jsonargparse import Namespace
from lightning.pytorch.utilities.exceptions import MisconfigurationException

import cli
from lightning_modules import SequenceClassifier
from linetune.arguments import configs_first, export_arguments
from linetune.checkpoint_export import upload
from linetune.config_files import config_folder, config_of_checkpoint, named_config
from linetune.last_checkpoint import last_checkpoint
from linetune.named_checkpoint import best_of_run
from tests.cli.command_line import ROOT, failed

WHOLE = {"state_dict": {}, "pytorch-lightning_version": "2.6.6", "epoch": 0, "global_step": 0}
TEXTS = ["a lovely film", "dull and long, far too long", "fine"]


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["linetune"])


@pytest.fixture(scope="module")
def run(tiny: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a short run of a tiny model with LoRA."""
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("sys.argv", ["linetune"])
        cli.main(
            [
                *("fit", "--config", "linetune:quickstart", "--config=linetune:trainer/cpu"),
                *("--config", "linetune:schemes/lora", "--model.model", tiny),
                *("--data.tokenizer", "offline:all-MiniLM-L6-v2", "--data.max_train_samples", "64"),
                *("--data.max_eval_samples", "16", "--trainer.max_epochs", "2"),
                *("--trainer.enable_progress_bar", "false"),
            ]
        )
    return folder / "runs" / "quickstart" / "version_0"


def same(one: Path, other: Path) -> None:
    left, right = (SequenceClassifier(str(folder)).predict_texts(TEXTS) for folder in (one, other))
    for a, b in zip(left, right, strict=True):
        assert a["probabilities"] == pytest.approx(b["probabilities"], abs=1e-6)


def test_export_writes_later_what_the_run_wrote_at_its_end(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    best = str(run / "checkpoints" / "best.ckpt")
    before = sorted(path.name for path in run.parent.rglob("*"))
    cli.main(["export", "--ckpt_path", best, "--to", "out"])
    assert "exported          out\n" in capsys.readouterr().out
    same(tmp_path / "out", run / "model")
    assert (tmp_path / "out/README.md").read_text() == (run / "model/README.md").read_text()
    cli.main(["export", "--config", str(run / "config.yaml"), "--ckpt_path=best", "--to", "adapter", "--merge=false"])
    assert peft.PeftConfig.from_pretrained(str(tmp_path / "adapter")).peft_type == "LORA"
    assert sorted(path.name for path in run.parent.rglob("*")) == before
    assert not (tmp_path / "runs").exists(), "no folder of a run of its own"

    exists = failed("export", "--ckpt_path", best, "--to", "out", capsys=capsys)
    assert re.search("error: export: .*out exists; ", exists)
    assert "are required" in failed("export", capsys=capsys)
    without = failed("export", "--config", str(run / "config.yaml"), capsys=capsys)
    assert without.startswith("linetune: error: the following arguments are required: --to (see ")
    assert "error: ckpt_path: export needs a checkpoint; " in failed("export", "--to", "new", capsys=capsys)
    # A copy elsewhere names the configuration of its run, which does not save there.
    shutil.copy(best, "copied.ckpt")
    refused = failed("export", "--ckpt_path", "copied.ckpt", "--to", "new", capsys=capsys)
    assert refused.endswith(f"copied.ckpt is not where {run / 'config.yaml'} saves checkpoints; give --config")
    cli.main(["export", "--ckpt_path", "copied.ckpt", "--config", str(run / "config.yaml"), "--to", "of_copy"])
    same(tmp_path / "of_copy", run / "model")
    stored = torch.load(best, weights_only=True)
    torch.save({name: value for name, value in stored.items() if name != "config_file"}, "moved.ckpt")
    assert "error: config: there is no /" in failed("export", "--ckpt_path", "moved.ckpt", "--to", "new", capsys=capsys)
    other = ["export", "--ckpt_path", best, "--to", "new", "--model.adapter", "null"]
    refused = failed(*other, capsys=capsys)
    assert f"error: ckpt_path: {best}: the checkpoint's adapter is LoraConfig, the model's none" in refused
    missing = str(run / "checkpoints" / "no.ckpt")
    assert failed("export", "--ckpt_path", missing, "--to", "new", capsys=capsys).endswith("no.ckpt does not exist")
    assert not (tmp_path / "new").exists()

    uploads: list[tuple] = []
    monkeypatch.setattr(
        "linetune.trainer.upload", lambda folder, name: uploads.append((folder, name)) or "https://hub/me/out"
    )
    cli.main(["export", "--ckpt_path", best, "--to", "pushed", "--push_to_hub", "me/out"])
    assert uploads == [(Path("pushed"), "me/out")]
    assert "uploaded          https://hub/me/out\n" in capsys.readouterr().out


def test_best_is_the_best_checkpoint_of_the_configs_run(
    run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    cli.main(["validate", "--config", str(run / "config.yaml"), "--ckpt_path", "best"])
    assert "val/accuracy" in capsys.readouterr().out
    without = failed("validate", "--config", "linetune:quickstart", "--ckpt_path", "best", capsys=capsys)
    assert "error: ckpt_path: best: no checkpoints in " in without


def test_which_checkpoint_is_the_best(tmp_path: Path) -> None:
    with pytest.raises(MisconfigurationException, match=r"^ckpt_path: best: no checkpoints in .*; give the path"):
        best_of_run(str(tmp_path / "config.yaml"))
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    for saved_at, name in enumerate(("a", "b", "c")):
        state = {"best_model_path": "" if name == "a" else "/moved/since/a.ckpt", "monitor": "val/loss"}
        # The other one keeps the last checkpoint, and knows of no best one.
        states = {"ModelCheckpoint{}": state, "another": {"best_model_path": f"{name}.ckpt", "monitor": None}}
        torch.save({**WHOLE, "callbacks": states}, folder / f"{name}.ckpt")
        # Files that are written within one tick of the clock have the same time.
        os.utime(folder / f"{name}.ckpt", (saved_at, saved_at))
        assert best_of_run(str(tmp_path / "config.yaml")).name == "a.ckpt"
    (folder / "last.ckpt").symlink_to("removed.ckpt")
    torch.save(WHOLE, folder / "d.ckpt")
    with pytest.raises(
        MisconfigurationException, match=r"does not tell which is the best of a.ckpt, b.ckpt, c.ckpt, d"
    ):
        best_of_run(str(tmp_path / "config.yaml"))


def test_the_best_checkpoint_of_a_run_that_went_on_may_be_that_of_the_run_before(tmp_path: Path) -> None:
    (tmp_path / "moved").mkdir()
    for root, name in (tmp_path, "runs"), (tmp_path / "moved", "elsewhere"):
        first, second = (root / name / version / "checkpoints" for version in ("version_0", "version_1"))
        for folder in first, second:
            folder.mkdir(parents=True)
        (first / "best.ckpt").touch()
        # Where they were when they were written.
        runs = tmp_path / "runs"
        state = {"best_model_path": str(runs / "version_0/checkpoints/best.ckpt"), "monitor": "val/loss"}
        state["dirpath"] = str(runs / "version_1/checkpoints")
        torch.save(WHOLE | {"callbacks": {"ModelCheckpoint{}": state}}, second / "last.ckpt")
        assert best_of_run(str(second.parent / "config.yaml")) == first / "best.ckpt"
        (first / "best.ckpt").unlink()
        # Nothing better is known than the only one.
        assert best_of_run(str(second.parent / "config.yaml")) == second / "last.ckpt"


def test_configs_have_names() -> None:
    assert config_folder() == ROOT / "configs"
    quickstart = str(ROOT / "configs" / "quickstart.yaml")
    for name in ("linetune:quickstart", "linetune:quickstart.yaml"):
        assert named_config(name) == quickstart
    assert named_config("--config=linetune:optimizers/salsa") == f"--config={ROOT / 'configs/optimizers/salsa.yaml'}"
    for other in ("quickstart.yaml", "--model.model=linetune:quickstart", "folder/linetune:quickstart"):
        assert named_config(other) == other
    with pytest.raises(
        MisconfigurationException, match=r"no linetune:quick; there are .*optimizers/salsa, .*quickstart"
    ):
        named_config("linetune:quick")
    arguments = ["--a", "1", "-c", "linetune:quickstart", "--model", "linetune:quickstart"]
    assert configs_first(arguments) == ["-c", quickstart, "--a", "1", "--model", "linetune:quickstart"]


def test_a_folder_of_several_fits_does_not_tell_whose_a_checkpoint_is(tmp_path: Path) -> None:
    """Fits without a logger share `default_root_dir` and its checkpoints."""
    (tmp_path / "checkpoints").mkdir()
    config, checkpoint = str(tmp_path / "config.yaml"), tmp_path / "checkpoints" / "best.ckpt"
    torch.save(WHOLE, checkpoint)
    # The second one is of `validate`.
    for name, options in ("config.yaml", ""), ("config-v1.yaml", "verbose: true\n"):
        (tmp_path / name).write_text(f"# lightning.pytorch==2.6.6\n{options}")
    assert config_of_checkpoint(str(checkpoint)) == tmp_path / "config.yaml"
    assert best_of_run(config) == checkpoint
    (tmp_path / "config-v2.yaml").write_text("model: {}\n")
    several = rf"{tmp_path} holds the configurations of several runs \(config.yaml, config-v2.yaml\); give"
    with pytest.raises(MisconfigurationException, match=f"^config: {several} --config"):
        config_of_checkpoint(str(checkpoint))
    with pytest.raises(MisconfigurationException, match=f"^ckpt_path: best: {several} the path"):
        best_of_run(config)
    with pytest.raises(MisconfigurationException, match=f"^ckpt_path: last: {several} the path"):
        last_checkpoint(Namespace(config=[config]), "validate")


def test_errors_of_export_name_its_own_help(capsys: pytest.CaptureFixture[str]) -> None:
    line = failed("export", "--nope", "3", capsys=capsys)
    assert "(see export --help, export --model.help SequenceClassifier, export --model.optimizer.help CLASS)" in line
    assert failed("nope", capsys=capsys).endswith("(see --help)")
    missing = failed("export", "--ckpt_path", "no.ckpt", "--to", "out", capsys=capsys)
    assert missing == "linetune: error: ckpt_path: no.ckpt does not exist"


def test_the_configuration_of_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("")
    path = str(tmp_path / "checkpoints" / "best.ckpt")
    assert config_of_checkpoint(path) == tmp_path / "config.yaml"
    (tmp_path / "runs" / "a" / "run" / "checkpoints").mkdir(parents=True)
    with pytest.raises(MisconfigurationException, match=r"run is the folder of a run; give a file in its checkpoints$"):
        config_of_checkpoint(str(tmp_path / "runs" / "a" / "run"))
    (tmp_path / "runs" / "a" / "run" / "model").mkdir()
    with pytest.raises(MisconfigurationException, match=r"model is a folder; give a checkpoint, such as best\.ckpt$"):
        config_of_checkpoint(str(tmp_path / "runs" / "a" / "run" / "model"))
    given = ["--ckpt_path", path, "--to", "x", "--onnx", "--merge", "false"]
    added = ["--config", str(tmp_path / "config.yaml"), *given]
    added[added.index("--onnx")] = "--onnx=true"
    assert export_arguments(given) == added
    # The last one is that which the parser takes.
    assert export_arguments(["--ckpt_path", "of/another/run.ckpt", *given])[:2] == added[:2]
    assert export_arguments(["--ckpt_path=of/another/run.ckpt", *given])[:2] == added[:2]
    assert export_arguments(["--onnx", "false"]) == ["--onnx", "false"]
    assert export_arguments(["--to=x", "--onnx", "--config=y"]) == ["--to=x", "--onnx=true", "--config=y"]
    assert export_arguments(["-c=y", *given])[:3] == ["-c=y", *given[:2]]
    assert export_arguments(["--help"]) == ["--help"]
    assert export_arguments(["--ckpt_path", path, "--help"]) == ["--ckpt_path", path, "--help"]
    with pytest.raises(MisconfigurationException, match="export needs a checkpoint"):
        export_arguments(["--to", "x"])
    with pytest.raises(MisconfigurationException, match=r"^to: export needs a folder to write; give --to FOLDER$"):
        export_arguments(["--ckpt_path", "x.ckpt"])


class Hub:
    """What `upload` uses of ``huggingface_hub.HfApi``."""

    calls: list[tuple] = []  # noqa: RUF012

    def create_repo(self, name: str, **options: Any) -> Any:
        if name == "not/mine":
            raise ConnectionError("403 Forbidden\nmore")
        self.calls.append(("create", name, options))
        return type("RepoUrl", (str,), {"repo_id": f"me/{name}"})(f"https://hub/me/{name}")

    def upload_folder(self, **options: Any) -> None:
        self.calls.append(("upload", options["repo_id"], options["folder_path"]))


def test_upload_makes_a_private_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    assert upload(tmp_path, "stars") == "https://hub/me/stars"
    assert Hub.calls == [
        ("create", "stars", {"private": True, "exist_ok": True}),
        ("upload", "me/stars", tmp_path),
    ]
    with pytest.raises(MisconfigurationException, match=r"^push_to_hub: not/mine: 403 Forbidden \(the folder is"):
        upload(tmp_path, "not/mine")


def test_the_version_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        cli.main(["--version"])
    assert done.value.code in (0, None)
    assert capsys.readouterr().out == "linetune 0.1.0\n"
