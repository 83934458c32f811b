"""Checkpoint files: whole or not there, whatever happens while one is written; damaged and foreign ones refused."""

from __future__ import annotations

import multiprocessing
import os
import random
import resource
import signal
import socket
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import Trainer
from lightning.pytorch.plugins.io import AsyncCheckpointIO
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from safetensors.torch import save_file

from benchmarks.compatibility.optimizers import SmallClassifier, loader
from callbacks import AtomicCheckpointIO
from callbacks.checkpoints.checkpoint_io import write_atomically
from callbacks.checkpoints.checkpoint_reading import damage, read_checkpoint, saved_step
from tests.quiet_trainer import quiet_trainer


def checkpoint(number: int = 0, size: int = 1000) -> dict[str, Any]:
    """What Lightning writes at least, around weights that all have the same value."""
    weights = {"state_dict": {"w": torch.full((size,), float(number)), "b": torch.full((3,), float(number))}}
    return {"pytorch-lightning_version": "2.6.6", "epoch": 0, "global_step": number, **weights}


def saved(folder: Path, **changes: Any) -> Path:
    AtomicCheckpointIO().save_checkpoint(checkpoint() | changes, folder / "a.ckpt")
    return folder / "a.ckpt"


def refused(path: Path) -> str:
    with pytest.raises(MisconfigurationException) as error:
        AtomicCheckpointIO().load_checkpoint(path)
    assert str(error.value).startswith(f"ckpt_path: {path} ")
    assert "\n" not in str(error.value)
    return str(error.value).removeprefix(f"ckpt_path: {path} ")


# Writing


def test_a_checkpoint_comes_back_and_nothing_lies_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", "/no/such/folder")  # where Lightning's own plugin writes first
    for number in range(3):
        AtomicCheckpointIO().save_checkpoint(checkpoint(number), tmp_path / "new" / "a.ckpt")
        loaded = AtomicCheckpointIO().load_checkpoint(tmp_path / "new" / "a.ckpt")
        assert loaded["global_step"] == number == loaded["state_dict"]["w"][0]
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["a.ckpt"]
    mask = os.umask(0)
    os.umask(mask)
    assert (tmp_path / "new" / "a.ckpt").stat().st_mode & 0o777 == 0o666 & ~mask


def save_forever(folder: Path) -> None:
    number = 0
    while True:
        number += 1
        AtomicCheckpointIO().save_checkpoint(checkpoint(number, 500_000), folder / "a.ckpt")


def test_a_kill_while_one_is_written_leaves_the_one_before(tmp_path: Path) -> None:
    chance, torn = random.Random(0), 0
    for _ in range(8):
        writer = multiprocessing.get_context("fork").Process(target=save_forever, args=(tmp_path,))
        writer.start()
        while not (tmp_path / "a.ckpt").exists():
            time.sleep(0.001)
        time.sleep(chance.uniform(0.01, 0.1))
        writer.kill()
        writer.join()
        loaded = read_checkpoint(tmp_path / "a.ckpt")
        assert set(loaded["state_dict"]["w"].tolist()) == {float(loaded["global_step"])}
        torn += len(list(tmp_path.iterdir())) - 1
    assert torn, "no kill fell into a write"
    AtomicCheckpointIO().save_checkpoint(checkpoint(), tmp_path / "b.ckpt")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.ckpt", "b.ckpt"]


def test_what_other_machines_write_is_left_alone_for_a_day(tmp_path: Path) -> None:
    elsewhere, old, own = (
        tmp_path / f".unfinished-{host}-{process}"
        for host, process in (("elsewhere", 1), ("elsewhere", 2), (socket.gethostname(), os.getppid()))
    )
    for file in (elsewhere, old, own):
        file.touch()
    os.utime(old, (time.time() - 90_000,) * 2)
    saved(tmp_path)
    assert elsewhere.exists()
    assert own.exists()
    assert not old.exists()


def save_under_limit(folder: Path, results: Any) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    try:
        AtomicCheckpointIO().save_checkpoint(checkpoint(2, 500_000), folder / "a.ckpt")
    except OSError as error:
        results.put(str(error))


def test_a_checkpoint_that_does_not_fit_is_one_line_and_leaves_the_one_before(tmp_path: Path) -> None:
    saved(tmp_path)
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    writer = context.Process(target=save_under_limit, args=(tmp_path, results))
    writer.start()
    message = results.get(timeout=60)
    writer.join()
    assert message.endswith(f"this checkpoint is not saved, those before it are kept: '{tmp_path / 'a.ckpt'}'")
    assert "\n" not in message
    assert [file.name for file in tmp_path.iterdir()] == ["a.ckpt"]
    assert read_checkpoint(tmp_path / "a.ckpt")["global_step"] == 0


def test_remote_paths_are_lightnings(tmp_path: Path) -> None:
    AtomicCheckpointIO().save_checkpoint(checkpoint(7), "memory://somewhere/a.ckpt")
    assert AtomicCheckpointIO().load_checkpoint("memory://somewhere/a.ckpt")["global_step"] == 7
    assert read_checkpoint("memory://somewhere/a.ckpt")["global_step"] == 7
    assert saved_step("memory://somewhere/a.ckpt") == 7
    AtomicCheckpointIO().remove_checkpoint("memory://somewhere/a.ckpt")
    assert saved_step("memory://somewhere/a.ckpt") is None
    with pytest.raises(FileNotFoundError):
        AtomicCheckpointIO().load_checkpoint("memory://somewhere/a.ckpt")
    AtomicCheckpointIO().save_checkpoint(checkpoint(8), f"file://{tmp_path}/a.ckpt")
    assert read_checkpoint(tmp_path / "a.ckpt")["global_step"] == 8


def test_forked_ranks_hand_their_weights_back(tmp_path: Path) -> None:
    """Lightning (2.6.6) writes and reads a bare state_dict with the plugin for it, in `_MultiProcessingLauncher`."""
    strategy = DDPStrategy(start_method="fork", process_group_backend="gloo")
    options = {"devices": 2, "strategy": strategy, "plugins": [AtomicCheckpointIO()], "enable_checkpointing": True}
    trainer = quiet_trainer(max_epochs=1, default_root_dir=tmp_path, **options)
    module = SmallClassifier(optimizer=partial(torch.optim.SGD, lr=0.1))
    before = [parameter.clone() for parameter in module.parameters()]
    trainer.fit(module, loader())
    assert not any(map(torch.equal, module.parameters(), before))
    assert [path.suffix for path in tmp_path.rglob("*.*")] == [".ckpt"]


def test_it_takes_the_place_of_lightnings_own_plugin_alone() -> None:
    options: dict[str, Any] = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False}
    for plugins, expected in (([], AtomicCheckpointIO), ([AsyncCheckpointIO()], AsyncCheckpointIO)):
        trainer = Trainer(plugins=plugins, **options)
        write_atomically(trainer)
        assert type(trainer.strategy.checkpoint_io) is expected


# Reading


def test_a_flipped_bit_anywhere_is_noticed(tmp_path: Path) -> None:
    path = saved(tmp_path, optimizer_states=[{"state": {0: {"exp_avg": torch.full((500,), 2.0)}}}])
    content = path.read_bytes()
    chance, unnoticed = random.Random(0), []
    for place in [*chance.sample(range(len(content)), 150), 0, len(content) - 1]:
        damaged = bytearray(content)
        damaged[place] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged)
        try:
            loaded = read_checkpoint(path)
        except MisconfigurationException:
            continue
        # Padding, dates and the like: what is read is what was written.
        unnoticed.append(place)
        assert torch.equal(loaded["state_dict"]["w"], torch.zeros(1000))
        assert torch.equal(loaded["optimizer_states"][0]["state"][0]["exp_avg"], torch.full((500,), 2.0))
        assert loaded["global_step"] == 0
    assert len(unnoticed) < 60
    # torch itself loads it.
    damaged = bytearray(content)
    damaged[content.index(bytes(400))] ^= 64
    path.write_bytes(damaged)
    torch.load(path, weights_only=True)
    assert refused(path).startswith("is damaged: the checksum of its part archive/data/")


@pytest.mark.parametrize("kept", [1, 30, 0.5, 0.99])
def test_a_truncated_file(tmp_path: Path, kept: float) -> None:
    path = saved(tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept if kept >= 1 else kept * len(content))])
    assert refused(path) in ("is not whole: its end is missing", "is not a checkpoint")


def test_foreign_files(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    for content, expected in (
        (b"", "is empty"),
        (bytes(500), "is damaged: it begins with zeros"),
        (b"epoch,loss\n1,0.5\n", "is not a checkpoint"),
        (b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x0b", "is not a checkpoint"),
    ):
        path.write_bytes(content)
        assert refused(path) == expected
    save_file({"w": torch.ones(3)}, path)
    assert refused(path).startswith("is a safetensors file, weights alone")
    for held, expected in (
        (torch.ones(3), "holds a Tensor, not a checkpoint"),
        ([torch.ones(3)], "holds a list, not a checkpoint"),
        ({"w": torch.ones(3)}, "holds weights alone (a state_dict); a checkpoint of Trainer.fit is expected"),
        ({"model": {"w": torch.ones(3)}}, "is not a checkpoint of Lightning: it lacks state_dict"),
        ({"state_dict": {}}, "is not a checkpoint of Lightning: it lacks pytorch-lightning_version"),
    ):
        torch.save(held, path)
        assert refused(path) == expected
    assert refused(tmp_path).startswith("is a folder, and not that of a whole sharded checkpoint")
    with pytest.raises(FileNotFoundError):
        AtomicCheckpointIO().load_checkpoint(tmp_path / "none.ckpt")


class Marker:
    """Leaves a file when an instance is made or restored."""

    def __init__(self, path: str) -> None:
        self.path = path
        Path(path).touch()

    def __setstate__(self, state: dict[str, Any]) -> None:
        Path(state["path"]).touch()


class Command:
    """Unpickles as a call of ``os.mkdir``."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.path,)


def test_classes_of_a_checkpoint_are_named_and_never_loaded(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    states = [{"state": {0: {"marker": Marker(str(ran)), "exp_avg": torch.ones(3)}}, "param_groups": []}]
    arguments = {"num_labels": 2, "made_by": Marker(str(ran))}
    path = saved(tmp_path, optimizer_states=states, lr_schedulers=[], hyper_parameters=arguments)
    ran.unlink()
    loaded = AtomicCheckpointIO().load_checkpoint(path, weights_only=False)
    assert loaded["unread_classes"] == [f"{__name__}.Marker"]
    assert "optimizer_states" not in loaded
    assert loaded["hyper_parameters"] == {"num_labels": 2}
    assert torch.equal(loaded["state_dict"]["w"], torch.zeros(1000))
    assert not ran.exists()
    with torch.serialization.safe_globals([Marker]):  # the user trusts it
        assert "unread_classes" not in read_checkpoint(path)
        assert ran.exists()
    ran.unlink()
    path = saved(tmp_path, optimizer_states=Command(str(ran)))
    assert refused(path) == "is not a checkpoint that torch can read without running code of it"
    assert not ran.exists()


def test_checksums_are_not_asked_for_where_none_are_written(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        assert damage(saved(tmp_path)) is None
    finally:
        torch.serialization.set_crc32_options(True)


# Where this fails, Lightning writes beside the file's place and renames it by itself.
def test_lightning_still_writes_into_the_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "none"))
    with pytest.raises(FileNotFoundError):
        TorchCheckpointIO().save_checkpoint(checkpoint(), tmp_path / "a.ckpt")
