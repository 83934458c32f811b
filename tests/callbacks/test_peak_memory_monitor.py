"""Peak memory: what a step needs for a moment is seen, what was there before is not."""

from __future__ import annotations

import gc

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import DataLoader

from callbacks import PeakMemoryMonitor
from tests.quiet_trainer import quiet_trainer

MIB = 2**20


class Allocates(LightningModule):
    """A module whose fourth step touches this many MiB and frees them again."""

    def __init__(self, mib, device_only=False):
        super().__init__()
        self.layer, self.mib = torch.nn.Linear(2, 1), mib

    def training_step(self, batch, batch_idx):
        if batch_idx == 3:
            torch.ones(self.mib * MIB // 4, device=self.device).sum()
        return self.layer(batch).sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def peak_of(folder, mib, logger=False, accelerator="cpu"):
    gc.collect()
    monitor = PeakMemoryMonitor()
    options = {"accelerator": accelerator, "devices": 1, "logger": logger, "log_every_n_steps": 2}
    trainer = quiet_trainer(max_epochs=1, callbacks=[monitor], default_root_dir=folder, **options)
    trainer.fit(Allocates(mib), DataLoader(torch.randn(8, 2)))
    return monitor.peak / MIB


def test_what_a_step_needed_for_a_moment_is_the_peak(tmp_path):
    before = np.ones(150 * MIB // 8)  # resident, and no part of the run
    peak_of(tmp_path, 1)  # threads and caches of the first run
    large = peak_of(tmp_path, 300)
    small = peak_of(tmp_path, 1)
    assert before.sum() > 0
    assert 290 <= large < 400
    assert small < 100


def test_it_goes_to_tensorboard(tmp_path):
    peak_of(tmp_path, 1)  # what earlier tests left is freed before the memory at the start is read
    logger = TensorBoardLogger(tmp_path, name=None)
    peak = peak_of(tmp_path, 200, logger)
    events = EventAccumulator(logger.log_dir)
    events.Reload()
    logged = [(event.step, event.value) for event in events.Scalars("memory/peak_mib")]
    steps, values = zip(*logged, strict=True)
    assert max(values) == pytest.approx(peak, rel=1e-5)
    assert values[0] < values[-1]
    assert len(set(steps)) >= 4


@pytest.mark.gpu
def test_on_cuda_it_is_torchs_peak(tmp_path):
    assert 200 <= peak_of(tmp_path, 200, accelerator="gpu") < 250
