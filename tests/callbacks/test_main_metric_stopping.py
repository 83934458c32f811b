"""Early stopping by the task's main metric, whatever it is called and whichever way is better."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.optim import SGD

from callbacks import MainMetricStopping
from lightning_modules import SequenceClassifier
from tests.quiet_trainer import quiet_trainer
from tests.tiny_models import TinyData


class Scripted(SequenceClassifier):
    """Logs given values of its main metric, one a validation."""

    script: tuple[float, ...] = ()

    def on_validation_epoch_end(self) -> None:
        if not self.trainer.sanity_checking:
            self.log("val/scripted", self.script[self.trainer.current_epoch])


def run(tiny: str, tmp_path: Path, script: tuple[float, ...], mode: str, callback: Any, **settings: Any) -> Trainer:
    module = Scripted(tiny, optimizer=partial(SGD, lr=0.0))
    module.script, module.main_metric, module.main_metric_mode = script, "val/scripted", mode
    settings = {"max_epochs": len(script), "callbacks": [callback, *settings.pop("callbacks", [])]} | settings
    ckpt_path = settings.pop("ckpt_path", None)
    trainer = quiet_trainer(default_root_dir=tmp_path, **settings)
    trainer.fit(module, TinyData(8), ckpt_path=ckpt_path)
    return trainer


@pytest.mark.parametrize(
    ("mode", "script", "epochs"),
    [
        ("max", (0.1, 0.2, 0.2, 0.15, 0.9), 4),
        ("min", (0.3, 0.2, 0.2, 0.25, 0.1), 4),
        ("max", (0.0, 0.0, 0.0), 3),  # a metric that is undefined from the start is 0
        ("max", (0.1, 0.2, 0.3, 0.4), 4),
        ("min", (0.4, 0.3, 0.2, 0.1), 4),
    ],
)
def test_the_run_ends_when_the_metric_no_longer_improves(
    mode: str, script: Any, epochs: int, tiny: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    callback = MainMetricStopping(patience=2)
    with caplog.at_level("INFO"):
        trainer = run(tiny, tmp_path, script, mode, callback)
    assert trainer.current_epoch == epochs
    assert (callback.monitor, callback.mode) == ("val/scripted", mode)
    assert ("stopped early after epoch" in caplog.text) == (epochs < len(script) or callback.stopped_epoch > 0)


@pytest.mark.parametrize(("mode", "script"), [("max", (0.1, 0.15, 0.2)), ("min", (0.3, 0.25, 0.2))])
def test_a_small_improvement_is_none(mode: str, script: Any, tiny: str, tmp_path: Path) -> None:
    callback = MainMetricStopping(patience=1, min_delta=0.08)
    assert run(tiny, tmp_path, script, mode, callback).current_epoch == 2


@pytest.mark.parametrize(("patience", "epochs"), [(1, 4), (3, 4), (4, 5)])
@pytest.mark.parametrize("kind", [MainMetricStopping, partial(EarlyStopping, "val/scripted", mode="max")])
def test_a_resumed_run_goes_on_counting_up_to_its_own_patience(
    kind: Any, patience: int, epochs: int, tiny: str, tmp_path: Path
) -> None:
    saver = ModelCheckpoint(dirpath=tmp_path, filename="last")
    script = (0.5, 0.4, 0.4, 0.4, 0.4, 0.4)
    arguments = {"callbacks": [saver], "enable_checkpointing": True}
    run(tiny, tmp_path, script, "max", kind(patience=3), max_epochs=3, **arguments)
    path = saver.best_model_path
    resumed = run(tiny, tmp_path, script, "max", kind(patience=patience), max_epochs=6, ckpt_path=path)
    assert resumed.current_epoch == epochs


def test_a_module_without_a_main_metric_is_watched_by_its_loss() -> None:
    callback = MainMetricStopping()
    callback.setup(Trainer(accelerator="cpu", logger=False), LightningModule(), "fit")
    assert (callback.monitor, callback.mode) == ("val/loss", "min")


def test_a_run_without_validation_is_refused_at_its_start(tiny: str) -> None:
    trainer = quiet_trainer(callbacks=[MainMetricStopping()], limit_val_batches=0)
    with pytest.raises(MisconfigurationException, match="MainMetricStopping: there is no validation to stop by"):
        trainer.fit(SequenceClassifier(tiny), TinyData(8))
    assert trainer.global_step == 0
