"""MeasuredLearningRate in a run that is resumed: to the bit what it is without a stop."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.optim import AdamW

from callbacks import MeasuredLearningRate
from lightning_modules import Schedule
from lightning_modules.schedules import LinearWithWarmup
from tests.callbacks.measured_regression import ROWS, Manual, Rates, Regression, fit, sequential, with_rate


@pytest.mark.parametrize("step", [1, 7, 12, 24, 40], ids=lambda step: f"after step {step}")
@pytest.mark.parametrize("kind", ["automatic", "manual"])
def test_a_run_goes_on_from_a_checkpoint_to_the_bit(tmp_path: Path, step: int, kind: str) -> None:
    """Lightning repeats a broken epoch from its first batch under automatic optimization: epochs of one batch here."""
    options: dict[str, Any] = {"max_epochs": 5} if kind == "manual" else {"max_epochs": 60, "batch": ROWS}

    def module() -> Any:
        if kind == "manual":
            return Manual(optimizer=partial(AdamW, lr=1.0), lr_scheduler=Schedule(LinearWithWarmup))

        def configure(module: Any) -> Any:
            optimizer = AdamW(module.parameters(), lr=2.0)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": sequential(optimizer), "interval": "step"}}

        return Regression(configure)

    whole, callback = module(), MeasuredLearningRate()
    saver = ModelCheckpoint(tmp_path, every_n_train_steps=step, save_top_k=-1, filename="{step}")
    fit(whole, callback, saver, **options)
    resumed, goes_on = module(), MeasuredLearningRate()
    fit(resumed, goes_on, resume=tmp_path / f"step={step}.ckpt", **options)
    assert torch.equal(resumed.weight, whole.weight)
    assert (goes_on.peak, goes_on.passes) == (callback.peak, callback.passes)


def test_a_longer_run_keeps_the_rate_that_was_measured(tmp_path: Path) -> None:
    """ClosureModule lays the schedule anew over the new length, from the rates that the optimizer is made with."""

    def module() -> Manual:
        return Manual(optimizer=partial(AdamW, lr=1e3), lr_scheduler=Schedule(LinearWithWarmup))

    callback, saver = MeasuredLearningRate(), ModelCheckpoint(tmp_path, save_last=True)
    fit(module(), callback, saver, max_epochs=4)
    goes_on, rates = MeasuredLearningRate(), Rates()
    fit(module(), goes_on, rates, max_epochs=8, resume=tmp_path / "last.ckpt")
    assert goes_on.peak == callback.peak
    # Of 96 steps 10 are the warm-up; Lightning's first step of the resumed run is the 49th.
    assert rates.rates[-24] == pytest.approx(goes_on.peak * 24 / 86, rel=0.05)


def test_a_run_that_began_without_it_keeps_its_rate(tmp_path: Path) -> None:
    saver = ModelCheckpoint(tmp_path, save_last=True)
    fit(Regression(with_rate(AdamW, lr=0.125)), saver, max_epochs=1)
    module, callback = Regression(with_rate(AdamW, lr=0.125)), MeasuredLearningRate()
    with pytest.warns(UserWarning, match="was not measured from its start; its learning rate stays"):
        fit(module, callback, max_epochs=2, resume=tmp_path / "last.ckpt")
    assert module.rates[-1] == [0.125]
    assert callback.peak is None
