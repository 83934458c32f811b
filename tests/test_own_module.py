"""A module of one's own, as the README shows it: trained from Python and from the command line, by any optimizer."""

from __future__ import annotations

import re
import sys
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, TensorDataset

import cli
from optimizers import GLD, ParabolicAdam, SaLSA
from tests.quiet_trainer import quiet_trainer

ROOT = Path(__file__).parent.parent
DATA = """
from tests.test_own_module import Bars
"""
OPTIMIZERS: dict[str, Any] = {
    "torch.optim.AdamW": partial(torch.optim.AdamW, lr=1e-2),
    "optimizers.SaLSA": SaLSA,
    "optimizers.ParabolicAdam": ParabolicAdam,
    "optimizers.GLD": partial(GLD, radius=0.1),
}


class Bars(LightningDataModule):
    """Noisy images of a bright row (label 0) or column (label 1)."""

    def setup(self, stage: str) -> None:
        generator = torch.Generator().manual_seed(0)
        labels = torch.randint(2, (512,), generator=generator)
        images = torch.eye(16)[torch.randint(16, (512,), generator=generator)].unsqueeze(-1).repeat(1, 1, 16)
        images[labels == 1] = images[labels == 1].mT.clone()
        noise = torch.randn(512, 1, 16, 16, generator=generator)
        self.examples = TensorDataset(3 * images.unsqueeze(1) + noise, labels)

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.examples, batch_size=32, shuffle=True)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.examples, batch_size=64)


def readme_block() -> str:
    """The README's module, without the line that trains it."""
    (block,) = re.findall(
        r"```python\n(from lightning.*?BarClassifier.*?)```", (ROOT / "README.md").read_text(), re.DOTALL
    )
    return block


def test_the_module_is_at_most_twenty_lines() -> None:
    assert len([line for line in readme_block().splitlines() if line.strip()]) <= 20


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_any_optimizer_trains_it_from_python(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    names: dict[str, Any] = {}
    exec(readme_block().partition("Trainer(max_epochs")[0], names)
    module = names["BarClassifier"](optimizer=OPTIMIZERS[name])
    trainer = quiet_trainer(max_epochs=6, default_root_dir=tmp_path)
    trainer.fit(module, Bars())
    # The two labels are equally frequent: without learning the loss is log 2.
    assert float(trainer.callback_metrics["val/loss"]) < 0.35
    assert {"train/loss", "train/step_size", "train/step_time"} <= set(trainer.callback_metrics)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_any_optimizer_trains_it_from_the_command_line(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bars.py").write_text(readme_block().partition("Trainer(max_epochs")[0] + DATA)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "bars", raising=False)
    monkeypatch.setattr(sys, "argv", ["cli.py"])
    arguments = ["fit", "--config", str(ROOT / "configs/quickstart.yaml"), "--model", "bars.BarClassifier"]
    arguments += ["--data", "bars.Bars", "--model.optimizer", name, "--trainer.accelerator", "cpu"]
    arguments += ["--trainer.max_epochs", "1", "--trainer.enable_progress_bar", "false"]
    arguments += ["--trainer.logger.save_dir", str(tmp_path)]
    if name == "torch.optim.AdamW":
        arguments += ["--model.optimizer.lr", "0.01"]
    cli.main(arguments)
    assert "val/loss" in capsys.readouterr().out
    assert (tmp_path / "quickstart" / "version_0" / "checkpoints" / "best.ckpt").is_file()


WRITER = """
from lightning.pytorch.callbacks import BasePredictionWriter


class Predicting(BarClassifier):
    def predict_step(self, batch, batch_idx):
        return self.head(self.layers(batch[0])).argmax(-1)


class New(Bars):
    predict_dataloader = Bars.val_dataloader


class Writer(BasePredictionWriter):
    def write_on_batch_end(self, *arguments):
        pass
"""


def test_predictions_that_no_callback_writes_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = readme_block().partition("Trainer(max_epochs")[0] + DATA + WRITER
    (tmp_path / "predicted_bars.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "argv", ["cli.py"])
    arguments = ["predict", "--model", "predicted_bars.Predicting", "--data", "predicted_bars.New"]
    arguments += ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
    arguments += ["--trainer.logger", "false", "--trainer.default_root_dir", str(tmp_path)]
    told = "predict: unless Predicting writes its predictions itself, nothing does"
    with pytest.warns(UserWarning, match=told):
        cli.main(arguments)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        cli.main([*arguments, "--trainer.callbacks+=predicted_bars.Writer"])
    assert not any(told in str(each.message) for each in caught)
