"""What compute_loss logs and adds to metrics is that of each step's first computation, however many there are."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MeanMetric, MetricCollection

from lightning_modules import ClosureModule
from lightning_modules.steps.logged_once import LoggedOnce
from optimizers import GLD, AdamSLS, MeZO, SaLSA
from tests.quiet_trainer import quiet_trainer


class Observing(ClosureModule):
    """Least squares that logs its loss, as a number and by metrics, wherever it is computed."""

    def __init__(self, **training: Any) -> None:
        super().__init__(**training)
        torch.manual_seed(0)
        self.layer = nn.Linear(3, 1)
        self.mean = MeanMetric()
        self.several = MetricCollection({"one": MeanMetric(), "other": MeanMetric()})
        self.computed: list[list[float]] = []

    def compute_loss(self, batch: Any) -> Tensor:
        inputs, targets = batch
        loss = nn.functional.mse_loss(self.layer(inputs).squeeze(-1), targets)
        self.computed[-1].append(float(loss))
        self.mean.update(loss.detach())
        self.several.update(loss.detach())
        self.log("train/number", loss.detach(), on_step=False, on_epoch=True)
        self.log_dict({"train/mean": self.mean}, on_step=False, on_epoch=True)
        self.log_dict(self.several, on_step=False, on_epoch=True)
        return loss


class StepStarts(Callback):
    """Begins a list of losses at every batch."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        pl_module.computed.append([])


@pytest.mark.parametrize(
    "optimizer",
    [SaLSA, AdamSLS, partial(MeZO, lr=1e-2), GLD, partial(torch.optim.LBFGS, max_iter=3)],
    ids=["SaLSA", "AdamSLS", "MeZO", "GLD", "LBFGS"],
)
def test_trials_log_nothing_and_count_in_no_metric(optimizer: Any, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(1)
    loader = DataLoader(
        TensorDataset(torch.randn(24, 3, generator=generator), torch.randn(24, generator=generator)), batch_size=8
    )
    module = Observing(optimizer=optimizer)
    trainer = quiet_trainer(max_epochs=1, default_root_dir=tmp_path, callbacks=[StepStarts()])
    trainer.fit(module, loader)
    assert all(len(losses) > 1 for losses in module.computed)
    expected = sum(losses[0] for losses in module.computed) / len(module.computed)
    for name in ("train/number", "train/mean", "one", "other"):
        assert float(trainer.callback_metrics[name]) == pytest.approx(expected, rel=1e-6), name


def test_a_log_that_stood_in_for_the_modules_own_is_back_after_a_trial() -> None:
    module = ClosureModule()
    logged: list[str] = []
    module.log = lambda name, *_, **__: logged.append(name)  # type: ignore[method-assign]
    once = LoggedOnce(module, [])
    for _ in range(2):
        with once.computation():
            module.log("within", 0.0)
        module.log("after", 0.0)
    assert logged == ["within", "after", "after"]
