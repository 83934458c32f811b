"""Folders of runs: each run has one of its own, also where several start at once."""

from __future__ import annotations

import multiprocessing
import os
import time
from pathlib import Path
from typing import Any

import pytest
from lightning.fabric.utilities.cloud_io import get_filesystem
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from callbacks import claim_run_folders, run_folder
from callbacks.files.file_systems import exists
from callbacks.files.new_file import new_file
from tests.quiet_trainer import quiet_trainer
from tests.tiny_models import TinyLogger

LOGGERS = {"tensorboard": TensorBoardLogger, "csv": CSVLogger}


def trainer(*loggers: Any) -> Trainer:
    return quiet_trainer(logger=list(loggers))


def claim_together(kind: str, folder: Path, start: float, found: Any) -> None:
    made = trainer(LOGGERS[kind](folder, name="exp"))
    time.sleep(max(0.0, start - time.time()))
    claim_run_folders(made)
    found.put(made.log_dir)


@pytest.mark.parametrize("kind", LOGGERS)
def test_processes_that_start_at_once_have_folders_of_their_own(tmp_path: Path, kind: str) -> None:
    context, count = multiprocessing.get_context("fork"), 8
    found, start = context.Queue(), time.time() + 1
    processes = [
        context.Process(target=claim_together, args=(kind, tmp_path, start, found), daemon=True) for _ in range(count)
    ]
    for process in processes:
        process.start()
    folders = {found.get(timeout=60) for _ in processes}
    for process in processes:
        process.join()
    assert folders == {str(tmp_path / "exp" / f"version_{number}") for number in range(count)}
    assert {path.name for path in (tmp_path / "exp").iterdir()} == {f"version_{number}" for number in range(count)}


def test_versions_that_are_given_or_taken_stay(tmp_path: Path) -> None:
    (tmp_path / "exp" / "version_3").mkdir(parents=True)
    given, named = TensorBoardLogger(tmp_path, name="exp", version=3), CSVLogger(tmp_path, name="exp", version="mine")
    free = TensorBoardLogger(tmp_path, name="exp", sub_dir="events")
    made = trainer(given, named, free)
    claim_run_folders(made)
    claim_run_folders(made)
    assert (given.version, named.version, free.version) == (3, "mine", 4)
    assert sorted(path.name for path in (tmp_path / "exp").iterdir()) == ["version_3", "version_4"]


@pytest.mark.parametrize(
    "logger",
    [
        TensorBoardLogger("runs", name="exp", sub_dir="of/events"),
        TensorBoardLogger("runs", name="", version="mine"),
        CSVLogger("runs", name="exp", version=3),
        TinyLogger("runs", "a1"),
        TinyLogger("runs", 2),
        TinyLogger("runs"),
        TinyLogger(),
        False,
    ],
)
def test_it_is_where_the_checkpoints_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logger: Any) -> None:
    monkeypatch.chdir(tmp_path)
    saver = ModelCheckpoint()
    made = quiet_trainer(logger=logger, callbacks=[saver], enable_checkpointing=True)
    saver.setup(made, BoringModel(), "fit")
    assert saver.dirpath == os.path.join(run_folder(made), "checkpoints")


@pytest.mark.parametrize("kind", [TensorBoardLogger, CSVLogger, TinyLogger])
def test_it_may_be_within_the_users_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = run_folder(quiet_trainer(logger=kind("~/runs", version="mine")))
    assert Path(folder).is_relative_to(tmp_path / "runs")


def test_the_main_process_alone_makes_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = trainer(TensorBoardLogger(tmp_path, name="exp"))
    monkeypatch.setattr(type(made), "is_global_zero", False)
    claim_run_folders(made)
    assert not os.listdir(tmp_path)


def test_a_file_in_the_way_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "exp").mkdir()
    (tmp_path / "exp" / "version_0").touch()
    with pytest.raises(FileExistsError):
        claim_run_folders(trainer(TensorBoardLogger(tmp_path, name="exp")))


def test_another_lightning_is_named(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path, name="exp")
    del logger._version
    with pytest.raises(RuntimeError, match=r"lightning 2\.\d+.*TensorBoardLogger has no _version"):
        claim_run_folders(trainer(logger))


def test_a_file_on_a_remote_file_system_appears_whole_or_not_at_all() -> None:
    file = "memory://whole/table.csv"

    def write(text: str) -> None:
        with new_file(file) as stream:
            stream.write("a,")
            stream.write(text)

    with pytest.raises(TypeError):
        write(None)  # type: ignore[arg-type]
    assert not exists(file)
    write("b\n")
    assert get_filesystem(file).cat_file(file) == b"a,b\n"
