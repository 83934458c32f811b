"""A rank that dies ends the run on all ranks, under Lightning's launcher and under torchrun."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.tiny_models import save_tiny_bert

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

PROGRAM = """
import os, pathlib, signal, sys
import cli
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DDPStrategy
from lightning_modules import ModelError, SequenceClassifier
from tests.tiny_models import TinyData

class Dying(SequenceClassifier):
    def on_train_batch_start(self, batch, batch_idx):
        if batch_idx == 2 and self.global_rank == int(sys.argv[2]):
            pathlib.Path(sys.argv[4]).touch()
            if sys.argv[3] == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            raise ModelError("the data of this rank are broken")

strategy = DDPStrategy(process_group_backend="gloo")
quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
trainer = Trainer(accelerator="cpu", devices=2, strategy=strategy, max_epochs=50, limit_val_batches=0, **quiet)
cli.LinetuneCLI = lambda **options: trainer.fit(Dying(sys.argv[1]), TinyData(64, 4))
cli.main()
"""


@pytest.mark.parametrize(
    ("launcher", "rank", "how"),
    [("lightning", 1, "killed"), ("lightning", 0, "killed"), ("lightning", 1, "raises"), ("torchrun", 1, "killed")],
)
def test_a_rank_that_dies_ends_the_run(launcher: str, rank: int, how: str, tmp_path: Path) -> None:
    tiny = save_tiny_bert(tmp_path / "m")
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    start = [sys.executable]
    if launcher == "torchrun":
        start += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    died = tmp_path / "died"
    ended = subprocess.run(
        [*start, str(program), str(tiny), str(rank), how, str(died)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert time.time() - died.stat().st_mtime < 60
    assert ended.returncode != 0
    lines = [line for line in ended.stderr.splitlines() if line.startswith("linetune: error:")]
    if how == "raises":
        assert "linetune: error: the data of this rank are broken" in lines
    if launcher == "lightning":
        assert any(f"rank {1 - rank} lost another rank of the run" in line for line in lines)
    # No process of the run is left.
    left = subprocess.run(["pgrep", "-f", str(program)], capture_output=True, text=True)
    assert not left.stdout
