"""`--ckpt_path last`: the newest whole checkpoint of an experiment, whatever its folders."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from jsonargparse import Namespace
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from lightning_modules import ModelError
from linetune.last_checkpoint import checkpoint_folders, last_checkpoint
from linetune.named_checkpoint import named_checkpoint
from tests.saved_checkpoints import HEADER, configuration, logger, saved


@pytest.mark.parametrize("kind", ["TensorBoardLogger", "CSVLogger"])
def test_it_is_the_newest_of_all_versions(tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    config = configuration(tmp_path, logger(tmp_path / "runs", kind))
    saved(tmp_path / "runs/exp/version_0/checkpoints/best.ckpt", age=30)
    newest = saved(tmp_path / "runs/exp/version_10/checkpoints/step.ckpt", age=10)
    saved(tmp_path / "runs/exp/version_9/checkpoints/last.ckpt", age=20)
    saved(tmp_path / "runs/other/version_0/checkpoints/last.ckpt")  # of another experiment
    (tmp_path / "runs/exp/version_11").mkdir()
    assert last_checkpoint(config, "fit") == str(newest)
    assert capsys.readouterr().err == f"ckpt_path last: {os.path.relpath(newest)} (3 found)\n"


def test_what_is_not_whole_is_skipped_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = configuration(tmp_path, [logger(tmp_path), logger(tmp_path, "CSVLogger")])
    folder = tmp_path / "exp" / "version_0" / "checkpoints"
    torn, flipped = saved(folder / "torn.ckpt", age=1), saved(folder / "flipped.ckpt", age=2)
    torn.write_bytes(torn.read_bytes()[:-100])
    content = bytearray(flipped.read_bytes())
    content[content.index(b"global_step") + 2] ^= 1
    flipped.write_bytes(content)
    for number, file in enumerate((torn, flipped)):
        os.utime(file, (1_000_000 - number,) * 2)
    saved(folder / "weights.ckpt", age=3, optimizer_states=None)
    saved(folder / "damaged.ckpt", age=4, loops=3)
    whole = saved(folder / "whole.ckpt", age=5)
    (folder / "last.ckpt").symlink_to("whole.ckpt")
    (folder / "gone.ckpt").symlink_to("removed.ckpt")
    assert last_checkpoint(config, "fit") == str(whole)
    torn_line, flipped_line, weights_line, damaged_line, chosen = capsys.readouterr().err.splitlines()
    assert torn_line.endswith("torn.ckpt: is not whole: its end is missing")
    assert "flipped.ckpt: is damaged: " in flipped_line
    assert "weights.ckpt: the checkpoint has no optimizer_states" in weights_line
    assert damaged_line.endswith("damaged.ckpt: loops of the checkpoint is a int, not a dict")
    assert chosen.startswith("ckpt_path last: ")
    assert last_checkpoint(config, "validate") == str(folder / "weights.ckpt")


def test_a_first_start_says_that_it_is_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = configuration(tmp_path, logger(tmp_path))
    assert last_checkpoint(config, "fit") is None
    where = os.path.relpath(tmp_path / "exp" / "*" / "checkpoints")
    expected = f"ckpt_path last: there is no whole checkpoint in {where}: THE RUN STARTS FROM THE BEGINNING\n"
    assert capsys.readouterr().err == expected
    with pytest.raises(MisconfigurationException, match=r"ckpt_path: last: there is no whole checkpoint in"):
        last_checkpoint(config, "predict")


def test_where_checkpoints_may_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def found(*arguments: Any) -> list[str] | None:
        folders = checkpoint_folders(configuration(tmp_path, *arguments).trainer)
        return None if folders is None else [os.path.relpath(folder, tmp_path) for folder in folders]

    for folder in ("exp/version_0", "exp/version_1", "exp/mine", "lightning_logs/version_4"):
        (tmp_path / folder / "checkpoints").mkdir(parents=True)
    every = [f"exp/{version}/checkpoints" for version in ("mine", "version_0", "version_1")]
    assert found(logger(tmp_path)) == every
    assert found(logger(tmp_path, version=1)) == ["exp/version_1/checkpoints"]
    assert found(logger(tmp_path, version="mine")) == ["exp/mine/checkpoints"]
    assert found(None) == found(True) == ["lightning_logs/version_4/checkpoints"]
    assert found(False) == found([]) == ["checkpoints"]
    own = Namespace(class_path="ModelCheckpoint", init_args=Namespace(dirpath=str(tmp_path / "own")))
    assert found(False, [own]) == found(False, own) == ["own", "checkpoints"]
    # Folders of other loggers and of other file systems are left to Lightning.
    assert found(logger(tmp_path, "WandbLogger")) is None
    assert found(logger(tmp_path, save_dir="s3://bucket")) is None
    assert last_checkpoint(configuration(tmp_path, logger(tmp_path, "WandbLogger")), "fit") == "last"


def test_the_configuration_of_a_run_stands_for_that_run_and_those_that_went_on_from_it(tmp_path: Path) -> None:
    first, other, second, third = (
        saved(tmp_path / f"exp/version_{number}/checkpoints/last.ckpt", age=40 - 10 * number) for number in range(4)
    )
    for file, start in (first, None), (other, None), (second, first), (third, second):
        (file.parent.parent / "config.yaml").write_text(f"{HEADER}ckpt_path: {start or 'null'}\nverbose: true\n")
    own = [str(tmp_path / "exp/version_0/config.yaml"), str(tmp_path / "one_more.yaml")]

    def last(subcommand: str, *configs: str, path: str = "last") -> str | None:
        config = configuration(tmp_path, logger(tmp_path))
        config.config, config.ckpt_path = list(configs), path
        return named_checkpoint(config, subcommand)

    assert last("fit", own[1]) == str(third)
    assert last("predict", *own) == str(first)
    assert last("fit", *own) == str(third)
    assert last("predict", *own, path="best") == str(first)
    third.unlink()
    assert last("fit", *own) == str(second)
    second.unlink()
    assert last("fit", *own) == str(first)
    assert last("fit", str(other.parent.parent / "config.yaml")) == str(other)
    first.unlink()
    assert last("fit", *own) is None


def test_what_a_run_went_on_from_is_not_taken_for_what_it_led_to(tmp_path: Path) -> None:
    start = str(saved(tmp_path / "exp/version_0/checkpoints/last.ckpt"))
    (tmp_path / "exp/version_1/checkpoints").mkdir(parents=True)
    run, other = tmp_path / "exp/version_1/config.yaml", tmp_path / "mine.yaml"
    run.write_text(f"{HEADER}ckpt_path: {start}\n")
    other.write_text(f"ckpt_path: {start}\n")
    config = configuration(tmp_path, logger(tmp_path))
    config.config, config.ckpt_path = [str(run)], start
    for subcommand in ("validate", "test", "predict", "export"):
        with pytest.raises(ModelError, match=rf"^ckpt_path: {run} names the checkpoint that its run went on from, "):
            named_checkpoint(config, subcommand)
        assert named_checkpoint(config, subcommand, ["--ckpt_path", start]) == start
    assert named_checkpoint(config, "fit") == start
    config.config = [str(other)]
    assert named_checkpoint(config, "test") == start
    run.write_text(f"{HEADER}ckpt_path: {start}\nverbose: true\n")  # of `validate`, beside the checkpoints of fits
    config.config = [str(run)]
    assert named_checkpoint(config, "validate") == start


def test_a_configuration_of_the_users_beside_checkpoints_is_not_that_of_a_run(tmp_path: Path) -> None:
    """A project's folder has `checkpoints` of runs without a logger, which have nothing to do with an experiment."""
    saved(tmp_path / "checkpoints/last.ckpt")
    newest = saved(tmp_path / "exp/version_0/checkpoints/last.ckpt", age=20)
    config = configuration(tmp_path, logger(tmp_path))
    for name, text in ("mine.yaml", "trainer: {}\n"), ("config.yaml", "trainer: {}\n"), ("copy.yaml", HEADER):
        (tmp_path / name).write_text(text)
        config.config = [str(tmp_path / name)]
        assert last_checkpoint(config, "fit") == last_checkpoint(config, "predict") == str(newest)


def test_a_run_without_a_logger_goes_on_any_number_of_times(tmp_path: Path) -> None:
    """Each start saves its configuration in the same folder, since it has another `ckpt_path`."""
    last = saved(tmp_path / "checkpoints/last.ckpt")
    names = ("config.yaml", "config-v1.yaml", "config-v2.yaml")
    for start, name in zip(("null", last, last), names, strict=True):
        (tmp_path / name).write_text(f"{HEADER}ckpt_path: {start}\n")
    (tmp_path / "mine.yaml").write_text("trainer: {}\n")
    config = configuration(tmp_path, logger=False)
    for name in ("mine.yaml", *names):
        config.config = [str(tmp_path / name)]
        assert last_checkpoint(config, "fit") == str(last)
    (tmp_path / "config-v3.yaml").write_text(f"{HEADER}ckpt_path: null\n")  # another run
    with pytest.raises(MisconfigurationException, match="holds the configurations of several runs"):
        last_checkpoint(config, "fit")
    config.config = [str(tmp_path / "mine.yaml")]
    assert last_checkpoint(config, "fit") == str(last)


def test_leftovers_of_killed_processes_are_removed(tmp_path: Path) -> None:
    saved(tmp_path / "exp/version_0/checkpoints/last.ckpt")
    (tmp_path / "exp/version_1/checkpoints").mkdir(parents=True)
    left = [tmp_path / f"exp/version_{version}/checkpoints/.unfinished-elsewhere-1" for version in (0, 1)]
    for file in left:
        file.touch()
        os.utime(file, (1_000_000,) * 2)
    last_checkpoint(configuration(tmp_path, logger(tmp_path)), "fit")
    assert not any(file.exists() for file in left)
