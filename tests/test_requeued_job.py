"""A run of a SLURM job that starts again: it goes on from its own newest checkpoint, and from no other run's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from linetune.named_checkpoint import named_checkpoint
from linetune.requeued_job import STARTED_BY, checkpoint_of_requeued_job, started_by
from tests.saved_checkpoints import configuration, logger, saved

COMMAND = ["fit", "--config", "a b.yaml"]


@pytest.fixture(autouse=True)
def _job(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SLURM_JOB_ID", "17")


def test_it_goes_on_from_the_newest_whole_checkpoint_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def of(version: int, name: str, text: str | None, age: float) -> Path:
        return saved(tmp_path / f"exp/version_{version}/checkpoints/{name}.ckpt", age, **{STARTED_BY: text})

    text = started_by(COMMAND)
    of(0, "best", text, age=50)
    own = of(0, "last", text, age=40)
    damaged = of(0, "last-interrupted", text, age=30)
    damaged.write_bytes(damaged.read_bytes()[:-100])
    cut = of(1, "newest", text, age=25)
    content = bytearray(cut.read_bytes())
    content[content.index(b"epoch")] ^= 1  # its table of contents and its end are whole
    cut.write_bytes(content)
    of(2, "last", started_by([*COMMAND, "--seed_everything", "1"]), age=20)  # another command of the job
    of(3, "last", "SLURM job 18: fit --config 'a b.yaml'", age=10)
    of(4, "last", None, age=0)
    config = configuration(tmp_path, logger(tmp_path))

    assert checkpoint_of_requeued_job(config, COMMAND) is None
    monkeypatch.setenv("SLURM_RESTART_COUNT", "0")
    assert checkpoint_of_requeued_job(config, COMMAND) is None
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert checkpoint_of_requeued_job(config, COMMAND) == str(own)
    said = capsys.readouterr().err
    assert said.splitlines()[-1] == f"SLURM job 17 starts again: it goes on from {os.path.relpath(own)}"

    assert checkpoint_of_requeued_job(config, ["fit"]) is None
    assert capsys.readouterr().err == "SLURM job 17 starts again: it has saved no checkpoint\n"
    assert checkpoint_of_requeued_job(configuration(tmp_path, logger(tmp_path, "WandbLogger")), COMMAND) is None
    assert "its checkpoints are not found with this logger" in capsys.readouterr().err
    monkeypatch.delenv("SLURM_JOB_ID")
    assert checkpoint_of_requeued_job(config, COMMAND) is None


@pytest.mark.parametrize("subcommand", ["fit", "validate", "test", "predict"])
def test_what_lightning_saved_for_another_run_is_not_taken_silently(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, subcommand: str
) -> None:
    left = saved(tmp_path / "hpc_ckpt_1.ckpt")
    config = configuration(tmp_path, logger(tmp_path))
    assert named_checkpoint(config, subcommand) is None
    monkeypatch.setenv("SLURM_NTASKS", "1")
    with pytest.raises(MisconfigurationException, match=r"hpc_ckpt_1\.ckpt, which another run may have left"):
        named_checkpoint(config, subcommand)
    config.ckpt_path = str(left)
    assert named_checkpoint(config, subcommand) == str(left)
    left.unlink()
    config.ckpt_path = None
    assert named_checkpoint(config, subcommand) is None
