"""What is told at a fit's end as the best checkpoint's is what was measured with the weights in that file."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.optim import SGD

from callbacks import PretrainedInterpolation
from callbacks.checkpoints.checkpoint_reading import saved_step
from callbacks.reports.best_validation import BestValidation
from lightning_modules import ClosureModule
from tests.quiet_trainer import quiet_trainer
from tests.tiny_models import TinyData


class Layer(ClosureModule):
    def __init__(self, lr: float = 0.1) -> None:
        super().__init__(partial(SGD, lr=lr))
        self.layer = nn.Linear(6, 2)

    def compute_loss(self, batch: Any) -> Any:
        return nn.functional.cross_entropy(self.layer(batch["input_ids"] / 32 - 1), batch["labels"])


class Watch(Callback):
    """Measures the first weight at every validation."""

    def __init__(self) -> None:
        self.chosen: Any = None

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        self.results: BestValidation[float] = BestValidation()

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        if not trainer.sanity_checking:
            self.results.add(trainer, float(pl_module.layer.weight[0, 0].detach()))

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        self.chosen = self.results.chosen(trainer)


def fit(folder: Path, *callbacks: Callback, resume: str | None = None, **options: Any) -> tuple[Any, float]:
    """Fit with a batch of 8 of 32 rows per step; return what was chosen, and the first weight at the end."""
    torch.manual_seed(0)
    module, watch = Layer(), Watch()
    options = {"max_epochs": 3, "enable_checkpointing": True} | options
    trainer = quiet_trainer(default_root_dir=folder, callbacks=[watch, *callbacks], **options)
    trainer.fit(module, TinyData(), ckpt_path=resume)
    return watch.chosen, float(module.layer.weight[0, 0].detach())


def weight_in(path: str) -> float:
    return float(torch.load(path, weights_only=True)["state_dict"]["layer.weight"][0, 0])


def test_the_best_checkpoint_of_a_validation(tmp_path: Path) -> None:
    saver = ModelCheckpoint(tmp_path, monitor="val/loss", mode="max")  # the first one
    (which, weight), last = fit(tmp_path, saver)
    assert saved_step(saver.best_model_path) == 4
    assert (which, weight) == ("best checkpoint", weight_in(saver.best_model_path))
    assert weight != last


class OfTheUser(ModelCheckpoint):
    """Saves as Lightning does: at an epoch's end also with the score of a validation a step earlier."""


@pytest.mark.parametrize(
    "saver",
    [
        partial(OfTheUser, monitor="val/loss", save_on_train_epoch_end=True),
        ModelCheckpoint,
        partial(ModelCheckpoint, save_top_k=0),
    ],
)
def test_weights_that_no_validation_has_seen_are_no_validations(tmp_path: Path, saver: Any) -> None:
    found: list[float] = []

    class Last(Callback):
        def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
            found.append(float(pl_module.layer.weight[0, 0].detach()))

    chosen, _ = fit(tmp_path, Last(), saver(tmp_path), val_check_interval=2, limit_train_batches=3)
    assert chosen == ("last validation", found[-1])


def test_the_best_checkpoint_of_the_run_before_is_none_of_this_fit(tmp_path: Path) -> None:
    first = ModelCheckpoint(tmp_path, monitor="val/loss", mode="max", save_last=True)
    fit(tmp_path, first, max_epochs=2)
    saver = ModelCheckpoint(tmp_path, monitor="val/loss", mode="max", save_last=True)
    chosen, last = fit(tmp_path, saver, resume=str(tmp_path / "last.ckpt"), max_epochs=3)
    assert saver.best_model_path == first.best_model_path
    assert chosen == ("last validation", last)


def test_before_a_search_for_other_weights_it_is_as_trained(tmp_path: Path) -> None:
    saver = ModelCheckpoint(tmp_path, monitor="val/loss", mode="max")
    (which, weight), _ = fit(tmp_path, PretrainedInterpolation(), saver)
    assert which == "best checkpoint, as trained"
    assert weight == weight_in(saver.best_model_path.replace("-interpolated", ""))


def test_a_file_that_is_no_checkpoint_has_no_step(tmp_path: Path) -> None:
    (tmp_path / "foreign.ckpt").write_text("weights")
    assert saved_step(tmp_path / "foreign.ckpt") is None
    assert saved_step(tmp_path / "absent.ckpt") is None
    (tmp_path / "sharded").mkdir()
    torch.save({"global_step": 3}, tmp_path / "sharded/meta.pt")
    assert saved_step(tmp_path / "sharded") == 3
