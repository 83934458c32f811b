"""The progress bar in a terminal of 80 columns."""

from __future__ import annotations

import re
from functools import partial

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.compatibility.optimizers import SmallClassifier
from callbacks import NarrowProgressBar


@pytest.mark.parametrize(
    ("bar", "is_whole"), [(NarrowProgressBar(), True), (TQDMProgressBar(), False)], ids=["narrow", "of Lightning"]
)
def test_loss_and_step_size_fit_into_80_columns(bar, is_whole, tmp_path):
    """tqdm cuts a line off at the terminal's width; Lightning 2.6.6's bar has time, speed and version first."""
    inputs = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    data = DataLoader(TensorDataset(inputs, (inputs[:, 0] > 0).long()), batch_size=16)
    trainer = Trainer(
        accelerator="cpu", max_epochs=1, logger=CSVLogger(tmp_path), callbacks=[bar], enable_checkpointing=False
    )
    trainer.fit(SmallClassifier(optimizer=partial(torch.optim.AdamW, lr=2e-5)), data)
    shown = bar.train_progress_bar
    line = shown.format_meter(
        **{**shown.format_dict, "n": 1234, "total": 2525, "elapsed": 606.0, "prefix": "Epoch 12: ", "ncols": 80}
    )
    assert len(line) == 80
    found = re.search(r"49%\|.\| 1234/2525 \[<10:33, loss=\d\.\d\d\d, step_size=2e-5\] 10:06", line)
    assert bool(found) == ("step_size=2e-5" in line) == is_whole
