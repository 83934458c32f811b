"""What a fit has switched is put back even if it ends with another callback that raises in `on_exception`.

lightning 2.6.6 tells no further callback of an exception then, and calls no teardown.
"""

from __future__ import annotations

import logging
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import LambdaCallback
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import default_data_collator
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from callbacks import DifferentialLearningRates, GradualUnfreezing, MeasuredLearningRate, SaveOnInterrupt
from lightning_modules import ClosureModule
from lightning_modules.models import cpu_products
from lightning_modules.models.cpu_products import CpuProducts
from lightning_modules.trainer.row_order import RowOrder
from lightning_modules.trainer.step_axis import StepAxis
from lightning_modules.trainer.whole_evaluation import WholeEvaluation
from tests.quiet_trainer import quiet_trainer
from tests.tiny_texts import tiny_classifier


class Raises(Callback):
    """Raises an error when it is told of one."""

    def on_exception(self, *_: Any) -> None:
        raise LookupError


class Small(ClosureModule):
    """A regression by two layers, whose second batch ends in an error."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.layers, self.head = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)]), nn.Linear(4, 1)
        self.seen: list[str] = []
        self.fails = True

    def compute_loss(self, batch: Tensor) -> Tensor:
        self.seen.append(torch.get_float32_matmul_precision())
        if self.fails and len(batch) == 2:
            raise ArithmeticError
        return (self.head(self.layers[1](self.layers[0](batch))) - 1).square().mean()


def fitted(folder: Path, *callbacks: Callback, **options: Any) -> tuple[Small, Trainer]:
    module = Small(**options)
    trainer = quiet_trainer(
        callbacks=[Raises(), *callbacks], default_root_dir=folder, max_epochs=1, log_every_n_steps=7
    )
    with pytest.raises(LookupError) as error:
        trainer.fit(module, DataLoader(torch.ones(6, 4), batch_size=4))
    assert isinstance(error.value.__context__, ArithmeticError)
    return module, trainer


def test_products(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_products, "onednn_is_faster", lambda: True)
    attention = ALL_ATTENTION_FUNCTIONS["sdpa"]
    assert cpu_products._is_torchs_own()
    module, _ = fitted(tmp_path)
    assert set(module.seen) == {"medium"}
    assert cpu_products._is_torchs_own()
    assert ALL_ATTENTION_FUNCTIONS["sdpa"] is attention


def test_the_trainers_count_of_batches_per_step(tmp_path: Path) -> None:
    """lightning 2.6.6 refuses another fit by a trainer that has one under manual optimization."""
    module, trainer = fitted(tmp_path, accumulate_grad_batches=3)
    assert (trainer.accumulate_grad_batches, trainer.log_every_n_steps) == (1, 7)
    trainer.callbacks = [each for each in trainer.callbacks if not isinstance(each, Raises)]
    module.fails = False
    trainer.fit(module, DataLoader(torch.ones(16, 4), batch_size=4))
    assert trainer.global_step == 2


class OwnCallbacks(Small):
    """Returns callbacks of its own alone, as modules of Lightning do."""

    def configure_callbacks(self) -> list[Callback]:
        return []


def test_a_module_with_callbacks_of_its_own_alone_counts_steps_too(tmp_path: Path) -> None:
    module = OwnCallbacks(accumulate_grad_batches=2)
    module.fails = False
    axis = []
    counts = LambdaCallback(
        on_train_batch_end=lambda trainer, *_: axis.append((trainer.accumulate_grad_batches, trainer.log_every_n_steps))
    )
    trainer = quiet_trainer(callbacks=[counts], default_root_dir=tmp_path, max_epochs=1, log_every_n_steps=7)
    trainer.fit(module, DataLoader(torch.ones(16, 4), batch_size=4))
    assert axis == [(2, 0), (2, 7)] * 2
    assert (trainer.accumulate_grad_batches, trainer.log_every_n_steps) == (1, 7)


def test_a_trainer_used_again_keeps_the_callbacks_of_the_module(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Lightning 2.6.6 would say that they override callbacks passed to it."""
    caplog.set_level(logging.INFO)
    module = tiny_classifier(tmp_path / "start", accumulate_grad_batches=2)
    rows = [
        {"input_ids": [1, word, 2], "attention_mask": [1] * 3, "labels": word % 2, "idx": word} for word in range(8)
    ]
    loader = DataLoader(rows, batch_size=2, collate_fn=default_data_collator)
    trainer = quiet_trainer(default_root_dir=tmp_path, max_epochs=1)
    for run in (trainer.fit, trainer.validate, trainer.predict):
        run(module, loader)
    trainer.fit_loop.max_epochs = 2
    trainer.fit(module, loader)
    assert trainer.global_step == 4
    kinds = [type(callback) for callback in trainer.callbacks]
    assert len(kinds) == len(set(kinds))
    assert {CpuProducts, RowOrder, StepAxis, WholeEvaluation} <= set(kinds)
    assert "override" not in caplog.text
    # The axis counts the steps of its own module.
    trainer.validate(other := tiny_classifier(tmp_path / "other"), loader)
    assert [each for each in trainer.callbacks if isinstance(each, StepAxis)] == [other._axis]


def test_frozen_parts(tmp_path: Path) -> None:
    module, _ = fitted(tmp_path, GradualUnfreezing())
    assert all(parameter.requires_grad for parameter in module.parameters())


def test_a_modules_groups(tmp_path: Path) -> None:
    module, _ = fitted(tmp_path, DifferentialLearningRates())
    assert module.param_groups is None


def test_an_optimizers_step(tmp_path: Path) -> None:
    _, trainer = fitted(tmp_path, MeasuredLearningRate(), optimizer=torch.optim.AdamW)
    assert "step" not in vars(trainer.optimizers[0])


def test_signals(tmp_path: Path) -> None:
    handler = signal.getsignal(signal.SIGINT)
    try:
        fitted(tmp_path, SaveOnInterrupt())
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
