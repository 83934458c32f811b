"""Ctrl-C and SIGTERM: a checkpoint to go on from, a line, and the usual status."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.utils.data import DataLoader

from callbacks import SaveOnInterrupt
from lightning_modules import ClosureModule

BATCHES = 5


class Small(ClosureModule):
    """A linear regression."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(4, 1)

    def compute_loss(self, batch: Tensor) -> Tensor:
        return (self.body(batch) - batch.sum(1, keepdim=True)).square().mean()


class Signals(Callback):
    """Sends a signal to its own process at a place of the run, and notes what the run does."""

    def __init__(self, place: str = "", step: int = 0, number: int = int(signal.SIGTERM), rank: int = 0) -> None:
        self.place, self.step, self.number, self.rank = place, step, number, rank
        self.seen: list[str] = []

    def _at(self, trainer: Trainer, place: str) -> None:
        if trainer.global_rank == self.rank and (self.place, self.step) == (place, trainer.global_step):
            os.kill(os.getpid(), self.number)

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self.seen.append(f"train {trainer.global_step}")
        self._at(trainer, "train")

    def on_validation_batch_end(self, trainer: Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.seen.append(f"val {batch_idx}")
        if batch_idx == 1:
            self._at(trainer, "val")

    def on_train_epoch_end(self, trainer: Trainer, *_: Any) -> None:
        self.seen.append("end")
        self._at(trainer, "end")


def rows(batches: int) -> DataLoader:
    return DataLoader(torch.randn(8 * batches, 4, generator=torch.Generator().manual_seed(1)), batch_size=8)


def fit(folder: Path, *callbacks: Callback, resume: str | None = None, validated: bool = True, **options: Any) -> Any:
    torch.manual_seed(0)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
    saver = ModelCheckpoint(filename="last" if resume is None else "resumed")
    trainer = Trainer(
        max_epochs=2,
        default_root_dir=folder,
        accelerator="cpu",
        callbacks=[*callbacks, saver],
        **(quiet | options),
    )
    module = Small()
    trainer.fit(module, rows(BATCHES), rows(3) if validated else None, ckpt_path=resume)
    return module


@pytest.mark.parametrize("validated", [True, False])
@pytest.mark.parametrize(
    ("place", "step"), [("train", 3), ("train", 5), ("val", 5), ("end", 5), ("train", 9), ("train", 10), ("val", 10)]
)
def test_a_run_goes_on_where_sigterm_ended_it(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], place: str, step: int, validated: bool
) -> None:
    if place == "val" and not validated:
        return
    whole = Signals()
    expected = fit(tmp_path / "whole", whole, validated=validated)
    first, second = Signals(place, step), Signals()
    if (place, step, validated) == ("train", 10, False):  # the last step: the run ends as it would have
        fit(tmp_path / "cut", first, SaveOnInterrupt(), validated=validated)
        assert first.seen == whole.seen
        return
    with pytest.raises(SystemExit) as ended:
        fit(tmp_path / "cut", first, SaveOnInterrupt(), validated=validated)
    assert ended.value.code == 143
    path = tmp_path / "cut" / "checkpoints" / "last-interrupted.ckpt"
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("interrupted by SIGTERM")]
    shown = os.path.relpath(path)
    assert line.endswith(f"kept {shown}; go on by the same command with --ckpt_path {shown}")
    found = fit(tmp_path / "cut", second, resume=str(path), validated=validated)
    # A validation that was cut off is made anew.
    cut = [each for each in first.seen[-2:] if each.startswith("val")] if second.seen[:1] == ["val 0"] else []
    assert first.seen[: len(first.seen) - len(cut)] + second.seen == whole.seen
    assert torch.equal(expected.body.weight, found.body.weight)


def test_ctrl_c_ends_with_130_and_gives_its_handler_back(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    fit(tmp_path, SaveOnInterrupt())
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    with pytest.raises(SystemExit) as ended:
        fit(tmp_path, Signals("train", 3, signal.SIGINT), SaveOnInterrupt())
    assert ended.value.code == 130
    assert (tmp_path / "checkpoints" / "last-interrupted.ckpt").is_file()
    assert "weights_only" not in caplog.text
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
    signal.signal(signal.SIGINT, before[0])  # after an exception Lightning puts back what it found, which hands on


def test_lightnings_own_last_checkpoint_is_that_of_the_interruption(tmp_path: Path) -> None:
    whole = fit(tmp_path / "whole")
    for step, number in ((2, signal.SIGTERM), (4, signal.SIGINT)):
        with pytest.raises(SystemExit):
            fit(tmp_path / "cut", Signals("train", step, number), SaveOnInterrupt(), resume="last")
    rest = Signals()
    assert torch.equal(fit(tmp_path / "cut", rest, resume="last").body.weight, whole.body.weight)
    assert rest.seen[0] == "train 5"


def test_without_a_model_checkpoint_nothing_is_kept(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        fit(tmp_path, Signals("train", 3), SaveOnInterrupt(), fast_dev_run=4)
    assert ended.value.code == 143
    assert "step 3: nothing is kept, since this run writes no checkpoints\n" in capfd.readouterr().err
    assert not list(tmp_path.rglob("*.ckpt"))


@pytest.mark.parametrize("rank", [0, 1])
def test_ranks_end_together_whichever_got_the_signal(tmp_path: Path, rank: int) -> None:
    strategy = DDPStrategy(start_method="fork", process_group_backend="gloo")
    with pytest.raises((SystemExit, torch.multiprocessing.ProcessExitedException)) as ended:
        fit(tmp_path, Signals("train", 2, rank=rank), SaveOnInterrupt(), strategy=strategy, devices=2)
    assert "143" in str(getattr(ended.value, "exit_code", ended.value.args))
    assert torch.load(tmp_path / "checkpoints" / "last-interrupted.ckpt", weights_only=True)["global_step"] == 2


ENDLESS = """
import sys, time, torch
from pathlib import Path
from lightning.pytorch import Callback
from callbacks import SaveOnInterrupt
from tests.callbacks.test_save_on_interrupt import fit

class Slow(Callback):
    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step == 2:
            print("here", flush=True)
            time.sleep(600)

fit(Path(sys.argv[1]), Slow(), SaveOnInterrupt())
"""


def test_a_second_ctrl_c_ends_at_once(tmp_path: Path) -> None:
    run = subprocess.Popen(
        [sys.executable, "-c", ENDLESS, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert run.stdout is not None
    while run.stdout.readline() != "here\n":
        assert run.poll() is None
    run.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert run.poll() is None
    run.send_signal(signal.SIGINT)
    _, errors = run.communicate(timeout=20)
    assert run.returncode == -signal.SIGINT
    assert "SIGINT: the run ends after this batch; a second Ctrl-C ends it at once" in errors
    assert "Traceback" not in errors
