"""Resuming from the command line: a process goes on from another one's checkpoint and ends where that one does."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Trainer

import cli
from benchmarks.compatibility.optimizers import SmallClassifier, loader
from callbacks import RunSummary
from tests.cli.command_line import ROOT

CLOCK = ("train/step_time", "train/examples_per_second")


def fit_in_a_fresh_process(*arguments: str) -> None:
    command = [sys.executable, str(ROOT / "cli.py"), "fit", *arguments]
    # As many threads as this process has: sums are rounded by them.
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]


def logged(folder: Path) -> list[dict[str, str]]:
    with (folder.parent / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    return [{name: value for name, value in row.items() if value and name not in CLOCK} for row in rows]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "data", "trainer", "checkpoint"),
    [
        (
            {"optimizer": {"class_path": "optimizers.SaLSA"}, "split_by_length": 2},
            {"group_by_length": True},
            {"precision": "bf16-mixed", "max_steps": 9},
            "step=7",
        ),
        (
            {
                "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 1e-3}},
                "lr_scheduler": {"scheduler": "lightning_modules.LinearWithWarmup"},
                "adapter": {
                    "class_path": "peft.LoraConfig",
                    "init_args": {"r": 2, "lora_dropout": 0.1, "target_modules": "all-linear"},
                },
                "accumulate_grad_batches": 2,
            },
            {},
            {"max_epochs": 3, "val_check_interval": 3},
            "step=4",  # three of a second epoch's five batches
        ),
    ],
    ids=["within an epoch", "within an accumulation"],
)
def test_a_fresh_process_goes_on_bit_for_bit(
    model: dict[str, Any],
    data: dict[str, Any],
    trainer: dict[str, Any],
    checkpoint: str,
    tiny: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    by_steps = "max_steps" in trainer
    saver = {
        "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
        "init_args": {"filename": "{step}", "save_top_k": -1, **({"every_n_train_steps": 1} if by_steps else {})},
    }
    settings = {
        "model": {"model": tiny, **model},
        "data": {
            "task_name": "sst2",
            "source": "synthetic",
            "tokenizer": "offline:all-MiniLM-L6-v2",
            "max_train_samples": 80,
            "max_eval_samples": 16,
            "train_batch_size": 16,
            "cache_dir": str(tmp_path / "cache"),
            **data,
        },
        "trainer": {
            "accelerator": "cpu",
            "log_every_n_steps": 1,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "logger": {
                "class_path": "lightning.pytorch.loggers.CSVLogger",
                "init_args": {"save_dir": "runs", "name": "run", "flush_logs_every_n_steps": 1},
            },
            "callbacks": [saver],
            **trainer,
        },
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
    cli.main(["fit", "--config", "run.yaml"])
    whole, resumed = (tmp_path / f"runs/run/version_{number}/checkpoints" for number in range(2))
    start = str(whole / f"{checkpoint}.ckpt")
    fit_in_a_fresh_process("--config", "run.yaml", "--ckpt_path", start, "--seed_everything", "5")

    last = max(whole.iterdir(), key=lambda path: path.stat().st_mtime).name
    one, other = (torch.load(folder / last, weights_only=True) for folder in (whole, resumed))
    assert one["loops"] == other["loops"]
    for name, state in one["resumption"]["random_states"].items():
        torch.testing.assert_close(state, other["resumption"]["random_states"][name], rtol=0, atol=0, equal_nan=True)
    for name, weights in one["state_dict"].items():
        assert torch.equal(weights, other["state_dict"][name])
    for number, state in one["optimizer_states"][0]["state"].items():
        assert all(
            torch.equal(torch.as_tensor(v), torch.as_tensor(other["optimizer_states"][0]["state"][number][k]))
            for k, v in state.items()
        )
    rows = logged(resumed)
    assert rows
    assert rows == logged(whole)[-len(rows) :]


def test_a_run_that_has_reached_its_end_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options: dict[str, Any] = {"accelerator": "cpu", "logger": False, "default_root_dir": tmp_path, "max_epochs": 1}
    options |= {"enable_progress_bar": False, "enable_model_summary": False}
    module = SmallClassifier(optimizer=torch.optim.AdamW)
    trainer = Trainer(callbacks=[RunSummary()], **options)
    trainer.fit(module, loader(), loader())
    assert "nothing to train" not in capsys.readouterr().out
    (path,) = tmp_path.rglob("*.ckpt")
    Trainer(callbacks=[RunSummary()], **options).fit(module, loader(), loader(), ckpt_path=path)
    output = capsys.readouterr().out
    assert f"nothing to train  the run of {os.path.relpath(path)} has reached its end\n" in output
    assert "no validation" not in output
