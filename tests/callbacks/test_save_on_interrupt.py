"""Ctrl-C, SIGTERM and SLURM's signal: a checkpoint to go on from, a line, and the usual status."""

from __future__ import annotations

import csv
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins.environments import SLURMEnvironment
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.utils.data import DataLoader

from callbacks import SaveOnInterrupt
from callbacks.checkpoints import save_on_interrupt
from lightning_modules import ClosureModule
from optimizers import SaLSA
from tests.quiet_trainer import quiet_trainer
from tests.ranks import on_ranks

BATCHES = 5


class Small(ClosureModule):
    """A linear regression."""

    def __init__(self, **training: Any) -> None:
        super().__init__(**training)
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


def rows(batches: int, workers: int = 0) -> DataLoader:
    drawn = torch.randn(8 * batches, 4, generator=torch.Generator().manual_seed(1))
    return DataLoader(drawn, batch_size=8, num_workers=workers, multiprocessing_context="fork" if workers else None)


def fit(
    folder: Path,
    *callbacks: Callback,
    resume: str | None = None,
    validated: bool = True,
    make: Callable[[], Small] = Small,
    workers: int = 0,
    **options: Any,
) -> Any:
    torch.manual_seed(0)
    saver = ModelCheckpoint(filename="last" if resume is None else "resumed")
    settings = {"max_epochs": 2, "enable_checkpointing": True, "num_sanity_val_steps": 0} | options
    trainer = quiet_trainer(default_root_dir=folder, callbacks=[*callbacks, saver], **settings)
    module = make()
    trainer.fit(module, rows(BATCHES, workers), rows(3) if validated else None, ckpt_path=resume)
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


def test_the_last_step_before_the_end_is_logged(tmp_path: Path) -> None:
    def losses(*runs: str) -> list[str]:
        files = [tmp_path / "logs" / run / "metrics.csv" for run in runs]
        rows = [row for file in files for row in csv.DictReader(file.read_text().splitlines())]
        return [row["train/loss"] for row in rows if row["train/loss"]]

    def log(run: str) -> dict[str, Any]:
        return {"logger": CSVLogger(tmp_path, name="logs", version=run), "log_every_n_steps": 1, "validated": False}

    fit(tmp_path / "whole", **log("whole"))
    with pytest.raises(SystemExit):
        fit(tmp_path / "cut", Signals("train", 3), SaveOnInterrupt(), **log("cut"))
    fit(tmp_path, resume=str(tmp_path / "logs" / "cut" / "checkpoints" / "last-interrupted.ckpt"), **log("rest"))
    assert losses("cut", "rest") == losses("whole")
    assert len(losses("cut")) == 3


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


class EndsLoaders(Signals):
    """Sends a signal to its own process and to those of the loaders, as one does that ends a group of processes."""

    def _at(self, trainer: Trainer, place: str) -> None:
        if (self.place, self.step) == (place, trainer.global_step):
            loaders = multiprocessing.active_children()
            assert len(loaders) == 2
            os.kill(os.getpid(), self.number)
            # By another process: torch's workers take it otherwise from the one that they belong to.
            subprocess.run(["kill", *(str(each.pid) for each in loaders)], check=True)
            for each in loaders:
                each.join(60)
                assert each.exitcode == -signal.SIGTERM


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_whose_loaders_end_with_it_is_saved(tmp_path: Path, number: int) -> None:
    before = signal.getsignal(signal.SIGCHLD)
    try:
        with pytest.raises(SystemExit) as ended:
            fit(tmp_path, EndsLoaders("train", 2, number), SaveOnInterrupt(), workers=2, validated=False)
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert ended.value.code == 128 + number
    assert (tmp_path / "checkpoints" / "last-interrupted.ckpt").is_file()


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


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The environment that `srun` gives a task of job 17, and a `scontrol` that writes down what it is asked for."""
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)
    values = {
        "JOB_ID": 17,
        "JOB_NAME": "fit",
        "NTASKS": 1,
        "NTASKS_PER_NODE": 1,
        "NNODES": 1,
        "PROCID": 0,
        "LOCALID": 0,
    }
    for name, value in (values | {"NODEID": 0}).items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text(f"#!/bin/sh\necho \"$@\" >> '{tmp_path}/asked'\n")
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", f"{scontrol.parent}:{os.environ['PATH']}")
    return scontrol


class SignalsWithinAStep(Small):
    """Gets a signal at the second loss of its fourth step, where a line search has moved the parameters."""

    def __init__(self, number: int | None = None) -> None:
        super().__init__(optimizer=SaLSA)
        self.number, self.losses = number, 0

    def compute_loss(self, batch: Tensor) -> Tensor:
        if self.training and self.trainer.global_step == 3:
            self.losses += 1
            if self.losses == 2 and self.number is not None:
                os.kill(os.getpid(), self.number)
        return super().compute_loss(batch)


def test_slurms_signal_saves_after_the_step_and_requeues_the_job(
    tmp_path: Path, slurm: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(signal.SIGUSR1)
    expected = fit(tmp_path / "whole", make=SignalsWithinAStep)
    assert expected.losses > 1
    with pytest.raises(SystemExit) as ended:
        fit(tmp_path / "cut", SaveOnInterrupt(), make=lambda: SignalsWithinAStep(signal.SIGUSR1))
    assert ended.value.code == 128 + signal.SIGUSR1
    path = tmp_path / "cut" / "checkpoints" / "last-interrupted.ckpt"
    kept, requeued = capfd.readouterr().err.splitlines()[-2:]
    assert kept.startswith("interrupted by SIGUSR1 in epoch 0 after step 4: kept ")
    assert requeued == "SLURM job 17: requeued"
    assert (tmp_path / "asked").read_text() == "requeue 17\n"
    # What Lightning would go on from, which it saves within the step.
    assert not list(tmp_path.rglob("hpc_ckpt_*"))
    found = fit(tmp_path / "cut", resume=str(path), make=SignalsWithinAStep)
    assert torch.equal(expected.body.weight, found.body.weight)
    assert signal.getsignal(signal.SIGUSR1) == before


@pytest.mark.parametrize(
    ("script", "said"), [("echo no such job >&2; exit 1", "not requeued: no such job"), (None, "not requeued: ")]
)
def test_a_job_that_slurm_does_not_requeue(
    tmp_path: Path,
    slurm: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    script: str | None,
    said: str,
) -> None:
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "16")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "2")
    slurm.write_text(f"#!/bin/sh\n{script}\n")
    if script is None:
        monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit) as ended:
        fit(tmp_path, Signals("train", 2, signal.SIGUSR1), SaveOnInterrupt())
    assert ended.value.code == 128 + signal.SIGUSR1
    assert f"SLURM job 16_2: {said}" in capfd.readouterr().err
    assert (tmp_path / "checkpoints" / "last-interrupted.ckpt").is_file()


def test_a_job_that_is_to_end_is_not_requeued(tmp_path: Path, slurm: Path) -> None:
    first, second = Signals("train", 2, signal.SIGUSR1), Signals("train", 2, signal.SIGTERM)
    with pytest.raises(SystemExit) as ended:
        fit(tmp_path, first, second, SaveOnInterrupt())
    assert ended.value.code == 143
    assert not (tmp_path / "asked").exists()


@pytest.mark.parametrize("own", [False, True])
def test_where_lightning_does_not_requeue_the_signal_is_not_touched(tmp_path: Path, slurm: Path, own: bool) -> None:
    before = signal.getsignal(signal.SIGUSR1)
    expected: Any = before
    try:
        if own:
            expected = lambda number, frame: None  # noqa: E731
            signal.signal(signal.SIGUSR1, expected)
        seen: list[Any] = []

        class Looks(Callback):
            def on_train_batch_end(self, *_: Any) -> None:
                seen.append(signal.getsignal(signal.SIGUSR1))

        fit(tmp_path, SaveOnInterrupt(), Looks(), plugins=[SLURMEnvironment(auto_requeue=own)])
        assert seen == [expected] * 2 * BATCHES
    finally:
        signal.signal(signal.SIGUSR1, before)


def requeue_on_two_ranks(rank: int, folder: Path, got_it: int) -> None:
    os.environ |= {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_PROCID": str(rank)}
    os.environ["SLURM_LOCALID"] = str(rank)
    signals = Signals("train", 2, signal.SIGUSR1, rank=got_it)
    strategy = DDPStrategy(process_group_backend="gloo")
    with pytest.raises(SystemExit) as ended:
        fit(folder, signals, SaveOnInterrupt(), strategy=strategy, devices=2)
    assert ended.value.code == 128 + signal.SIGUSR1
    assert signals.seen[-1] == "train 2"


@pytest.mark.parametrize("rank", [0, 1])
def test_ranks_are_requeued_together_whichever_got_the_signal(tmp_path: Path, slurm: Path, rank: int) -> None:
    on_ranks(requeue_on_two_ranks, tmp_path, rank)
    assert (tmp_path / "asked").read_text() == "requeue 17\n"
    assert (tmp_path / "checkpoints" / "last-interrupted.ckpt").is_file()


@pytest.mark.parametrize("number", range(len(save_on_interrupt._NOT_PUBLIC)))
def test_another_lightning_is_named_before_the_first_step(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = list(save_on_interrupt._NOT_PUBLIC)
    names[number] = f"{names[number].partition('.')[0]}.no_such_name"
    monkeypatch.setattr(save_on_interrupt, "_NOT_PUBLIC", tuple(names))
    with pytest.raises(RuntimeError, match=rf"lightning 2\.\d+.*Trainer has no {names[number]}"):
        fit(tmp_path, SaveOnInterrupt())
    assert not list(tmp_path.iterdir())
