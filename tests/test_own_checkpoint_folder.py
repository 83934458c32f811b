"""`--ckpt_path best` and `last` where a ModelCheckpoint writes into a folder of its own, which runs may share."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from jsonargparse import Namespace
from lightning.pytorch.utilities.exceptions import MisconfigurationException

import cli
from lightning_modules import ModelError
from linetune.config_files import config_of_checkpoint
from linetune.named_checkpoint import named_checkpoint
from tests.saved_checkpoints import HEADER, configuration, logger, saved
from tests.tiny_models import save_tiny_bert

OTHERS = ("validate", "test", "predict", "export")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of three runs that share the folder `kept`; the third one has gone on from the first."""
    folder = tmp_path_factory.mktemp("runs")
    tiny = save_tiny_bert(folder / "tiny", vocab_size=30522, max_position_embeddings=128)
    options = ["fit", "--config", "linetune:quickstart", "--config", "linetune:trainer/cpu", "--model.model", str(tiny)]
    options += ["--data.tokenizer", "offline:all-MiniLM-L6-v2", "--data.max_train_samples", "64"]
    options += ["--data.max_eval_samples", "16", "--trainer.enable_progress_bar", "false"]
    options += ["--trainer.callbacks", "ModelCheckpoint", "--trainer.callbacks.dirpath", str(folder / "kept")]
    options += ["--trainer.callbacks.monitor", "val/loss", "--trainer.callbacks.filename", "{epoch}"]
    options += ["--trainer.callbacks.save_top_k", "-1"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("sys.argv", ["linetune"])
        cli.main([*options, "--trainer.max_epochs", "1"])
        cli.main([*options, "--trainer.max_epochs", "1", "--seed_everything", "1"])
        cli.main([*options, "--trainer.max_epochs", "2", "--ckpt_path", "kept/epoch=0.ckpt"])
    return folder


def resolved(runs: Path, version: int, subcommand: str, path: str) -> str:
    """The checkpoint that the command line takes."""
    built: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["linetune"])
        patch.setattr(cli.LinetuneCLI, "instantiate_classes", lambda self: built.append(self.section.ckpt_path))
        patch.setattr(cli.LinetuneCLI, "_run_subcommand", lambda *_: None)
        config = str(runs / f"runs/quickstart/version_{version}/config.yaml")
        extra = ["--to", "out"] if subcommand == "export" else []
        cli.main([subcommand, "--config", config, "--ckpt_path", path, *extra])
    return os.path.relpath(built[0], runs)


@pytest.mark.parametrize("subcommand", OTHERS)
@pytest.mark.parametrize("path", ["best", "last"])
def test_a_runs_checkpoints_are_found_in_the_folder_that_runs_share(path: str, subcommand: str, runs: Path) -> None:
    assert not (runs / "runs/quickstart/version_0/checkpoints").exists()
    assert resolved(runs, 0, subcommand, path) == "kept/epoch=0.ckpt"
    assert resolved(runs, 1, subcommand, path) == "kept/epoch=0-v1.ckpt"


def test_best_of_a_run_that_went_on(runs: Path) -> None:
    states = torch.load(runs / "kept/epoch=1.ckpt", weights_only=True)["callbacks"]
    (saver,) = [state for name, state in states.items() if name.startswith("ModelCheckpoint")]
    assert set(map(os.path.basename, saver["best_k_models"])) == {"epoch=0.ckpt", "epoch=1.ckpt"}
    assert resolved(runs, 2, "validate", "best") == os.path.relpath(saver["best_model_path"], runs)


def test_a_fit_goes_on_from_the_newest_of_the_run_and_of_those_that_went_on_from_it(runs: Path) -> None:
    assert resolved(runs, 1, "fit", "last") == "kept/epoch=0-v1.ckpt"
    assert resolved(runs, 0, "fit", "last") == "kept/epoch=1.ckpt"


def test_the_configuration_of_a_checkpoint_in_a_folder_of_its_own(runs: Path) -> None:
    for name, version in ("epoch=0", 0), ("epoch=0-v1", 1), ("epoch=1", 2):
        assert config_of_checkpoint(str(runs / f"kept/{name}.ckpt")) == (
            runs / f"runs/quickstart/version_{version}/config.yaml"
        )


# Without a run


class Shared:
    """A folder `kept` with checkpoints of runs, whose configurations lie in ``exp/version_N``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        callback = Namespace(class_path="ModelCheckpoint", init_args=Namespace(dirpath=str(root / "kept")))
        self.config = configuration(root, logger(root), callback)
        for version in range(3):
            (root / f"exp/version_{version}").mkdir(parents=True)
            self.config_file(version).write_text(f"{HEADER}ckpt_path: null\n")

    def config_file(self, version: int) -> Path:
        return self.root / f"exp/version_{version}/config.yaml"

    def add(self, name: str, version: int | None, best: str | None = None, age: float = 0) -> str:
        path = self.root / f"kept/{name}.ckpt"
        best = str(self.root / f"kept/{best or name}.ckpt")
        state = {"best_model_path": best, "monitor": "val/loss", "dirpath": str(self.root / "kept")}
        named = None if version is None else str(self.config_file(version))
        return str(saved(path, age, callbacks={"ModelCheckpoint{}": state}, config_file=named))

    def named(self, path: str, *configs: Path, subcommand: str = "validate") -> str | None:
        self.config.config, self.config.ckpt_path = list(map(str, configs)), path
        return named_checkpoint(self.config, subcommand)


def test_one_runs_best_is_not_anothers(tmp_path: Path) -> None:
    shared = Shared(tmp_path)
    first = shared.add("a", 0, age=40)
    shared.add("b", 0, best="a", age=30)
    second = shared.add("c", 1, age=20)
    shared.add("d", None, age=10)  # of another program
    assert shared.named("best", shared.config_file(0)) == first
    assert shared.named("last", shared.config_file(0)) == str(tmp_path / "kept/b.ckpt")
    assert shared.named("best", shared.config_file(1)) == second
    Path(second).unlink()
    (tmp_path / "kept/d.ckpt").unlink()
    where = rf"of this run in {tmp_path}/exp/version_1/checkpoints, {tmp_path}/kept; give"
    with pytest.raises(MisconfigurationException, match=f"^ckpt_path: best: no checkpoints {where} the path"):
        shared.named("best", shared.config_file(1))


def test_a_run_that_was_moved_is_known_by_the_name_of_its_folder(tmp_path: Path) -> None:
    shared = Shared(tmp_path / "old")
    shared.add("a", 0)
    shared.add("b", 1)
    (tmp_path / "old").rename(tmp_path / "new")
    moved = Shared.__new__(Shared)
    moved.root = tmp_path / "new"
    callback = Namespace(class_path="ModelCheckpoint", init_args=Namespace(dirpath=str(tmp_path / "new/kept")))
    moved.config = configuration(tmp_path / "new", logger(tmp_path / "new"), callback)
    for path in ("best", "last"):
        assert moved.named(path, moved.config_file(0)) == str(tmp_path / "new/kept/a.ckpt")
        assert moved.named(path, moved.config_file(1)) == str(tmp_path / "new/kept/b.ckpt")


@pytest.mark.parametrize("version", [0, None])
def test_a_configuration_of_the_users_own_stands_for_the_only_run(tmp_path: Path, version: int | None) -> None:
    shared, own = Shared(tmp_path), tmp_path / "mine.yaml"
    first = shared.add("a", version, age=10)
    shared.add("b", version, best="a")
    assert shared.named("best", own) == shared.named("best") == first
    shared.add("c", 1)
    for configs in (own,), ():
        with pytest.raises(
            MisconfigurationException, match=r"^ckpt_path: best: no checkpoints of one run alone in .*/kept; give"
        ):
            shared.named("best", *configs)
    shared.config.trainer.callbacks = None
    with pytest.raises(MisconfigurationException, match=r"best: no checkpoints; give the config\.yaml of a run, or"):
        shared.named("best")


def test_what_a_run_went_on_from_is_not_evaluated_in_its_place(tmp_path: Path) -> None:
    shared = Shared(tmp_path)
    start = shared.add("a", 0)
    shared.add("b", 1)
    shared.config_file(1).write_text(f"{HEADER}ckpt_path: {start}\n")
    with pytest.raises(ModelError, match="names the checkpoint that its run went on from"):
        shared.named(start, shared.config_file(1))


def test_a_checkpoint_does_not_choose_a_configuration_that_does_not_save_beside_it(runs: Path, tmp_path: Path) -> None:
    kept = runs / "kept" / "epoch=0.ckpt"
    assert config_of_checkpoint(str(kept)) == runs / "runs/quickstart/version_0/config.yaml"
    shutil.copytree(runs / "kept", tmp_path / "downloads")
    (tmp_path / "config.yaml").write_text("trainer: {}\n")  # which has nothing to do with the run either
    with pytest.raises(MisconfigurationException, match=r"is not where \S+config\.yaml saves checkpoints; give"):
        config_of_checkpoint(str(tmp_path / "downloads" / "epoch=0.ckpt"))
