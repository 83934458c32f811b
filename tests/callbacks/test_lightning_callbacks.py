"""Lightning's own callbacks beside a module under manual optimization: they work, or one line says what to use."""

from __future__ import annotations

import csv
import re
from functools import partial
from pathlib import Path

import pytest
import pytorch_optimizer
import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.callbacks import (
    BackboneFinetuning,
    BatchSizeFinder,
    GradientAccumulationScheduler,
    LearningRateFinder,
    LearningRateMonitor,
    SpikeDetection,
)
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.tuner import Tuner
from torch.optim.lr_scheduler import LinearLR
from torch.utils.data import DataLoader, TensorDataset
from transformers import Adafactor

import lightning_modules
from benchmarks.compatibility.optimizers import SmallClassifier
from callbacks import StepSizeMonitor
from lightning_modules import GradientClip, ModelError, Schedule
from lightning_modules.trainer import batch_size_finder, step_axis
from optimizers import ParabolicAdam, ParamGroups, SaLSA
from tests.quiet_trainer import quiet_trainer

ADAMW = partial(torch.optim.AdamW, lr=1e-5)


def loader(batches=40):
    inputs = torch.randn(16 * batches, 8, generator=torch.Generator().manual_seed(0))
    return DataLoader(TensorDataset(inputs, (inputs[:, 0] > 0).long()), batch_size=16)


class Data(LightningDataModule):
    def train_dataloader(self):
        return loader()


def trainer(folder, *callbacks, **options):
    return quiet_trainer(callbacks=list(callbacks), default_root_dir=folder, **({"max_epochs": 1} | options))


def test_lr_find_suggests_a_rate_that_later_fits_take(tmp_path):
    """Lightning 2.6.6's search reads the loss that a training step returns, and steps the schedule it has put in."""
    module = SmallClassifier(optimizer=ADAMW)
    found = Tuner(trainer(tmp_path)).lr_find(module, loader(), num_training=40)
    assert all(loss > 0 for loss in found.results["loss"])
    assert 1e-6 < found.suggestion() < 1
    assert module.lr == found.suggestion()
    fit = trainer(tmp_path, max_steps=1)
    fit.fit(module, loader())
    assert fit.optimizers[0].param_groups[0]["lr"] == found.suggestion()


def test_a_rate_that_is_found_at_the_start_of_a_fit_goes_into_its_schedule(tmp_path):
    schedule = Schedule(partial(LinearLR, start_factor=0.5, total_iters=8))
    faster = ParamGroups(new_lr_factor=10.0)
    module = SmallClassifier(optimizer=ADAMW, lr_scheduler=schedule, accumulate_grad_batches=2, param_groups=faster)
    module.new_parameter_names = [name for name, _ in module.named_parameters()][:2]
    finder = LearningRateFinder(num_training_steps=15)
    fit = trainer(tmp_path, finder)
    fit.fit(module, loader())
    assert fit.global_step == 20
    assert finder.optimal_lr is not None
    found = finder.optimal_lr.suggestion()
    rates = {id(p): group["lr"] for group in fit.optimizers[0].param_groups for p in group["params"]}
    first, second, *others = (rates[id(parameter)] for parameter in module.parameters())
    assert [first, second, *others] == pytest.approx([10 * found, 10 * found, *[found] * len(others)], rel=1e-6)
    assert found > 1e-5


@pytest.mark.parametrize("method", [SaLSA, ParabolicAdam])
def test_lr_find_is_refused_where_a_step_size_is_searched(method, tmp_path):
    with pytest.raises(ModelError, match=f"LearningRateFinder .*{method.__name__} finds its own step size"):
        Tuner(trainer(tmp_path)).lr_find(SmallClassifier(optimizer=method), loader(), num_training=20)


REFUSED = {
    "GradientAccumulationScheduler": (GradientAccumulationScheduler({0: 2}), "give model.accumulate_grad_batches"),
    "GradientAccumulationScheduler, of one": (
        GradientAccumulationScheduler({0: 1}),
        "give model.accumulate_grad_batches",
    ),
    "BackboneFinetuning": (BackboneFinetuning(), "use callbacks.GradualUnfreezing, or model.trainable: head"),
    "BatchSizeFinder": (BatchSizeFinder(), "give data.train_batch_size"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_callback_for_something_else_names_our_way(name, tmp_path):
    callback, line = REFUSED[name]
    with pytest.raises(ModelError, match=f"trainer.callbacks: {type(callback).__name__}: .*{line}"):
        trainer(tmp_path, callback).fit(SmallClassifier(optimizer=SaLSA), datamodule=Data())


def test_another_lightning_is_named(tmp_path, monkeypatch):
    module = SmallClassifier(optimizer=SaLSA)
    monkeypatch.setattr(batch_size_finder, "_NOT_PUBLIC", ("_no_such_name",))
    with pytest.raises(RuntimeError, match=r"lightning 2\.\d+.*BatchSizeFinder has no _no_such_name"):
        trainer(tmp_path, BatchSizeFinder()).fit(module, datamodule=Data())
    monkeypatch.setattr(step_axis, "_NOT_PUBLIC", "_no_such_name.should_update_logs")
    with pytest.raises(RuntimeError, match=r"lightning 2\.\d+.*Trainer has no _no_such_name\.should_update_logs"):
        trainer(tmp_path, logger=CSVLogger(tmp_path)).fit(module, loader())


@pytest.mark.parametrize("optimizer", [pytorch_optimizer.AliG, Adafactor])
def test_a_monitor_of_rates_is_refused_where_there_is_none(optimizer, tmp_path):
    module = SmallClassifier(optimizer=optimizer)
    with pytest.raises(ModelError, match=f"LearningRateMonitor: {optimizer.__name__} keeps no learning rate"):
        trainer(tmp_path, LearningRateMonitor(), logger=CSVLogger(tmp_path)).fit(module, loader())


def test_callbacks_that_watch_the_loss_get_it(tmp_path):
    """Lightning 2.6.6's SpikeDetection takes ``loss`` out of what a training step returns."""
    run = trainer(tmp_path, SpikeDetection())
    run.fit(SmallClassifier(optimizer=SaLSA), loader(4))
    assert run.global_step > 0


@pytest.mark.parametrize("accumulated", [1, 4])
def test_all_curves_are_over_optimizer_steps(accumulated, tmp_path):
    """Lightning 2.6.6 counts batches under manual optimization, its axis and ``log_every_n_steps`` with them."""
    monitors = StepSizeMonitor(), LearningRateMonitor(logging_interval="step")
    fit = trainer(tmp_path, *monitors, logger=CSVLogger(tmp_path), log_every_n_steps=2)
    module = SmallClassifier(optimizer=SaLSA, accumulate_grad_batches=accumulated)
    for epochs in (1, 2):  # the trainer is left as it was, so that it takes a second fit
        fit.fit_loop.max_epochs = epochs
        fit.fit(module, loader(10 * accumulated))
        assert (fit.log_every_n_steps, fit.accumulate_grad_batches) == (2, 1)
    with (Path(fit.logger.log_dir) / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    at = {name: [int(row["step"]) for row in rows if row[name]] for name in ("train/loss", "lr-SaLSA/model")}
    at["monitor"] = [int(row["step"]) for row in rows if row[next(name for name in row if "step_size/" in name)]]
    assert at["train/loss"] == at["lr-SaLSA/model"] == list(range(1, 20, 2))
    assert at["monitor"] == list(range(20))


@pytest.mark.parametrize(
    ("argument", "name", "meant"),
    [
        ({"accumulate_grad_batches": 2}, "accumulate_grad_batches", 2),
        ({"gradient_clip_val": 0.5}, "gradient_clip", GradientClip(0.5)),
        ({"gradient_clip_val": 1, "gradient_clip_algorithm": "value"}, "gradient_clip", GradientClip(1, "value")),
    ],
)
def test_an_argument_of_the_trainer_that_a_module_has_itself_says_what_to_write(argument, name, meant, tmp_path):
    """What the line proposes is read by Python and by the command line, and means the same."""
    refusal = r"SmallClassifier does this itself; give it (\w+)=(.*), on the command line (.*)$"
    with pytest.raises(ModelError, match=refusal) as refused:
        trainer(tmp_path, **argument).fit(SmallClassifier(optimizer=ADAMW), loader(1))
    keyword, value, options = re.search(refusal, str(refused.value)).groups()
    assert (keyword, eval(value, {"lightning_modules": lightning_modules})) == (name, meant)
    parser = LightningArgumentParser()
    parser.add_lightning_class_args(SmallClassifier, "model")
    parsed = parser.instantiate_classes(parser.parse_args(options.split()))
    assert getattr(parsed.model, name) == meant


def test_arguments_of_the_trainer_that_are_off_are_let_through(tmp_path):
    fit = trainer(tmp_path, accumulate_grad_batches=1, gradient_clip_val=0.0)
    fit.fit(SmallClassifier(optimizer=ADAMW), loader(1))
    assert fit.global_step == 1
