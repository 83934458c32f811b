"""The line searches' configs make the optimizers that they name and train with them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import cli
from callbacks import StepSizeMonitor
from optimizers import sgd, traits
from tests.tiny_models import save_tiny_bert

ROOT = Path(__file__).parent.parent.parent

EXPECTED = {
    "adam_sls_paper": {"bracket": None, "shrink": 0.9, "c": 0.1, "units": 1, "steps_per_epoch": 2},
    "adam_sls_per_layer": {"bracket": 0.2, "c": 0.1, "units": 4, "update_rule": "cycle", "steps_per_epoch": 2},
    "parabolic_adam": {"peak_fraction": 0.12, "units": 1, "total_steps": 3},
    "salsa_sgd": {"direction": sgd, "c": 0.5, "smoothing": 0.9, "units": 1},
}


@pytest.mark.parametrize("name", EXPECTED)
def test_a_config_trains(name, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["cli.py"])
    tiny = str(save_tiny_bert(tmp_path / "m", vocab_size=30522, max_position_embeddings=128))
    arguments = ["--config", "configs/quickstart.yaml", "--config", f"configs/optimizers/{name}.yaml"]
    arguments += ["--config", "configs/trainer/cpu.yaml", "--model.model", tiny]
    arguments += ["--data.tokenizer", "offline:all-MiniLM-L6-v2", "--data.max_train_samples", "64"]
    arguments += ["--trainer.max_steps", "3", "--trainer.limit_val_batches", "0"]
    arguments += ["--trainer.logger.init_args.save_dir", str(tmp_path), "--trainer.enable_progress_bar", "false"]
    built = cli.LinetuneCLI(auto_configure_optimizers=False, run=False, args=arguments)
    trainer = built.trainer
    trainer.fit(built.model, built.datamodule)
    (optimizer,) = trainer.optimizers
    assert traits(optimizer).sets_step_size
    assert optimizer.last_step.accepted
    assert any(isinstance(callback, StepSizeMonitor) for callback in trainer.callbacks)
    expected = dict(EXPECTED[name])
    assert len({group["unit"] for group in optimizer.param_groups}) == expected.pop("units")
    for option, value in expected.items():
        assert optimizer.param_groups[0].get(option, getattr(optimizer, option, None)) == value
