"""Lightning's searches at the start of a fit: LearningRateFinder and BatchSizeFinder."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule, Trainer
from lightning.pytorch.callbacks import BatchSizeFinder, LearningRateFinder, ModelCheckpoint
from lightning.pytorch.tuner import Tuner
from torch.optim import SGD, AdamW
from torch.utils.data import DataLoader, TensorDataset

from callbacks import MeasuredLearningRate, ScheduleBySeconds, TrainingSeconds
from lightning_modules import ModelError, Schedule, SequenceClassifier
from lightning_modules.schedules import LinearWithWarmup
from optimizers import ParabolicAdam, ParamGroups
from tests.callbacks.measured_regression import Manual, Rates, Regression, table, with_rate
from tests.quiet_trainer import quiet_trainer
from tests.tiny_models import TinyData, save_tiny_bert

ADAMW = partial(AdamW, lr=1e-3)


class Data(LightningDataModule):
    """The regression's 96 rows."""

    def __init__(self, batch_size: int = 4) -> None:
        super().__init__()
        self.batch_size = batch_size

    def train_dataloader(self) -> DataLoader:
        return DataLoader(TensorDataset(*table()), batch_size=self.batch_size)

    def val_dataloader(self) -> DataLoader:  # which Lightning 2.6.6 asks for in a search
        return DataLoader(TensorDataset(*table(seed=1)), batch_size=32)


def size_finder() -> BatchSizeFinder:
    """Finds a batch size of 16, with which the regression has 6 batches an epoch."""
    return BatchSizeFinder(init_val=8, max_trials=2, steps_per_trial=2)


def rate_finder() -> LearningRateFinder:
    return LearningRateFinder(num_training_steps=22)


def fit(module: Any, folder: Path, *callbacks: Callback, data: Any = None, resume: Any = None, epochs: int = 2) -> Any:
    saves = any(isinstance(each, ModelCheckpoint) for each in callbacks)
    trainer = quiet_trainer(
        default_root_dir=folder, callbacks=list(callbacks), max_epochs=epochs, enable_checkpointing=saves
    )
    trainer.fit(module, datamodule=data or Data(), ckpt_path=resume)
    return trainer


@pytest.mark.parametrize(
    "options",
    [{"optimizer": ADAMW, "lr_scheduler": Schedule(LinearWithWarmup)}, {"optimizer": ParabolicAdam}],
    ids=["schedule", "ParabolicAdam"],
)
def test_the_run_is_as_long_as_the_batch_size_that_is_found_makes_it(options: dict[str, Any], tmp_path: Path) -> None:
    """The optimizer and its schedule are made before the search."""
    rates, given_rates = Rates(), Rates()
    module, given = Manual(**options), Manual(**options)
    trainer = fit(module, tmp_path, size_finder(), rates)
    fit(given, tmp_path, given_rates, data=Data(16))
    assert trainer.global_step == 12
    assert rates.rates == given_rates.rates
    assert torch.equal(module.weight, given.weight)


def test_a_search_for_a_rate_goes_on_beyond_those_at_which_the_loss_is_infinite(tmp_path: Path) -> None:
    trainer = quiet_trainer(default_root_dir=tmp_path)
    found = Tuner(trainer).lr_find(
        Manual(optimizer=partial(SGD, lr=0.1)), datamodule=Data(), max_lr=1e30, early_stop_threshold=None
    )
    assert found is not None
    assert len(found.results["loss"]) == 100
    assert found.suggestion() < 1


def test_a_schedule_over_seconds_begins_from_the_rate_that_is_found(tmp_path: Path) -> None:
    module = Manual(optimizer=ADAMW, param_groups=ParamGroups(new_lr_factor=10.0))
    module.bias = torch.nn.Parameter(torch.zeros(1))
    module.new_parameter_names = ["bias"]
    finder, seconds = rate_finder(), ScheduleBySeconds(shape="constant", warmup=0.0)
    trainer = fit(module, tmp_path, finder, TrainingSeconds(60.0), seconds, epochs=1)
    assert finder.optimal_lr is not None
    found = finder.optimal_lr.suggestion()
    rates = [group["lr"] for group in trainer.optimizers[0].param_groups for _ in group["params"]]
    assert sorted(rates) == pytest.approx([found, 10 * found])


@pytest.mark.parametrize("batch_size", [4, 16], ids=lambda size: f"before it {size}")
def test_a_rate_that_is_found_stays_after_a_search_for_the_batch_size(batch_size: int, tmp_path: Path) -> None:
    """Whose trials are fits, and after which Lightning restores the schedule."""
    schedule = Schedule(partial(LinearWithWarmup, warmup_steps=1))
    finder, rates = rate_finder(), Rates()
    module = Manual(optimizer=ADAMW, lr_scheduler=schedule)
    fit(module, tmp_path, finder, size_finder(), rates, data=Data(batch_size), epochs=4)
    assert finder.optimal_lr is not None
    assert rates.rates[0] == finder.optimal_lr.suggestion()
    assert len(rates.rates) == 24


@pytest.mark.parametrize("kind", ["automatic", "manual"])
def test_a_rate_is_measured_after_a_search_for_the_batch_size(kind: str, tmp_path: Path) -> None:
    """Lightning restores the callbacks from before the search, as in a run that goes on."""

    def module() -> Any:
        adamw = partial(AdamW, lr=1.0)
        return Manual(optimizer=adamw) if kind == "manual" else Regression(with_rate(adamw))

    callback, alone = MeasuredLearningRate(), MeasuredLearningRate()
    fit(module(), tmp_path, size_finder(), callback)
    fit(module(), tmp_path, alone, data=Data(16))
    assert callback.peak == alone.peak


@pytest.mark.parametrize("finder", [size_finder, rate_finder])
def test_a_run_after_a_search_is_not_one_that_goes_on(
    finder: Any, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    assert fit(Manual(optimizer=ADAMW), tmp_path, rate_finder(), finder()).ckpt_path is None
    assert not any("goes on with what the checkpoint holds" in str(each.message) for each in recwarn)


def test_a_run_that_goes_on_is_not_searched_again(tmp_path: Path) -> None:
    """Lightning 2.6.6 would begin it anew, with the checkpoint's weights."""
    saver = ModelCheckpoint(tmp_path, save_last=True)
    fit(Manual(optimizer=ADAMW), tmp_path, rate_finder(), saver, epochs=1)
    modules, finder = [Manual(optimizer=ADAMW) for _ in range(2)], rate_finder()
    for module, callbacks in zip(modules, ([], [finder]), strict=True):
        assert fit(module, tmp_path, *callbacks, resume=tmp_path / "last.ckpt").global_step == 48
    assert torch.equal(modules[0].weight, modules[1].weight)
    assert finder.optimal_lr is None
    fit(Manual(optimizer=ADAMW), tmp_path, finder)
    assert finder.optimal_lr is not None
    with pytest.raises(ModelError, match=r"Finder: it searches at the start of a run, and this one goes on from"):
        fit(Manual(optimizer=ADAMW), tmp_path, size_finder(), resume=tmp_path / "last.ckpt")


def test_a_longer_run_that_goes_on_keeps_the_rate_that_was_found(tmp_path: Path) -> None:
    """Its schedule is laid over the new length, from the rates that its optimizer is made with."""

    def module() -> Manual:
        return Manual(optimizer=ADAMW, lr_scheduler=Schedule(partial(LinearWithWarmup, warmup_steps=0)))

    finder = rate_finder()
    fit(module(), tmp_path, finder, ModelCheckpoint(tmp_path, save_last=True), epochs=1)
    assert finder.optimal_lr is not None
    found = finder.optimal_lr.suggestion()
    assert found is not None
    assert found < 5e-4
    rates = Rates()
    fit(module(), tmp_path, rates, resume=tmp_path / "last.ckpt", epochs=2)
    assert rates.rates[-1] == 0
    assert rates.rates[-13] == pytest.approx(found * 12 / 48)


@pytest.mark.parametrize("at", ["the start of a fit", "a fit before"])
def test_parts_with_rates_of_their_own_keep_them(at: str, tmp_path: Path) -> None:
    """Lightning sets the rate that it has found in all groups."""
    model = str(save_tiny_bert(tmp_path / "bert"))

    def fitted(**groups: Any) -> Trainer:
        module = SequenceClassifier(model, optimizer=ADAMW, param_groups=ParamGroups(**groups))
        callbacks = [rate_finder()] if at == "the start of a fit" else []
        if not callbacks:
            trainer = quiet_trainer(default_root_dir=tmp_path, max_epochs=1)
            Tuner(trainer).lr_find(module, datamodule=TinyData(200), num_training=22)
        return fit(module, tmp_path, *callbacks, data=TinyData(200), epochs=1)

    rates = {group["name"]: group["lr"] for group in fitted(lrs={"head": 0.5}, lr_decay=0.5).optimizers[0].param_groups}
    assert rates["head"] == 0.5
    assert rates["layer.1"] > 1e-3
    assert rates["layer.0"] == pytest.approx(rates["layer.1"] / 2)
    with pytest.raises(ModelError, match=r"lr: a search has found .* all parameters have rates of their own"):
        fitted(lrs=dict.fromkeys(["embeddings", "layer.0", "layer.1", "head"], 0.1))


def test_a_fit_after_a_search_of_the_tuner_goes_on_from_nothing(tmp_path: Path) -> None:
    """The Tuner ends its fit once it has restored what was there before, as for a fit that goes on."""
    module = Manual(optimizer=ADAMW)
    Tuner(quiet_trainer(default_root_dir=tmp_path)).lr_find(module, datamodule=Data(), num_training=22)
    module.optimizer = SGD
    assert fit(module, tmp_path, epochs=1).global_step == 24


class OwnData(LightningDataModule):
    """Twelve rows to fit and to evaluate, with the names that the project's own datamodules have for batch sizes."""

    def __init__(self, train_batch_size: int = 4, eval_batch_size: int | None = None) -> None:
        super().__init__()
        self.train_batch_size, self.eval_batch_size = train_batch_size, eval_batch_size
        self.seen: list[int] = []

    def train_dataloader(self) -> DataLoader:
        return DataLoader(TensorDataset(*table()), batch_size=self.train_batch_size)

    def val_dataloader(self) -> DataLoader:
        self.seen.append(self.eval_batch_size or 0)
        return DataLoader(TensorDataset(*table(seed=1)), batch_size=self.eval_batch_size or 32)

    test_dataloader = predict_dataloader = val_dataloader


class Predicts(Manual):
    def predict_step(self, batch: Any, batch_idx: int) -> None:
        pass


@pytest.mark.parametrize("method", ["validate", "test", "predict"])
@pytest.mark.parametrize("mode", ["power", "binsearch"])
def test_the_batch_size_of_an_evaluation_is_found_where_none_was_given(method: Any, mode: str, tmp_path: Path) -> None:
    data = OwnData()
    tuner = Tuner(quiet_trainer(default_root_dir=tmp_path))
    found = tuner.scale_batch_size(
        Predicts(optimizer=ADAMW),
        datamodule=data,
        method=method,
        mode=mode,
        batch_arg_name="eval_batch_size",
        max_trials=3,
        margin=0.0,
    )
    assert found == data.eval_batch_size == 8
    assert {2, 4, 8} <= set(data.seen)


@pytest.mark.parametrize(
    ("method", "name", "expected"),
    [
        ("fit", "batch_size", "neither model nor data have batch_size; give data.train_batch_size"),
        ("fit", "eval_batch_size", "eval_batch_size has no effect on a fit; give data.train_batch_size"),
        ("validate", "batch_size", "neither model nor data have batch_size; give data.eval_batch_size"),
        ("validate", "train_batch_size", "train_batch_size has no effect on validate; give data.eval_batch_size"),
        ("test", "train_batch_size", "train_batch_size has no effect on test; give data.eval_batch_size"),
        ("predict", "train_batch_size", "train_batch_size has no effect on predict; give data.eval_batch_size"),
    ],
)
def test_a_search_for_a_batch_size_that_the_run_does_not_use_is_refused(
    method: Any, name: str, expected: str, tmp_path: Path
) -> None:
    tuner = Tuner(quiet_trainer(default_root_dir=tmp_path))
    with pytest.raises(ModelError, match=rf"^trainer\.callbacks: BatchSizeFinder: {expected} \(batch_arg_name: "):
        tuner.scale_batch_size(Predicts(optimizer=ADAMW), datamodule=OwnData(), method=method, batch_arg_name=name)


def test_a_models_batch_size_that_is_none_is_one_line(tmp_path: Path) -> None:
    module = Manual(optimizer=ADAMW)
    module.batch_size = None
    with pytest.raises(ModelError, match=r"BatchSizeFinder: the model's batch_size is None; give it a number"):
        Tuner(quiet_trainer(default_root_dir=tmp_path)).scale_batch_size(module, datamodule=Data())


def test_an_evaluation_after_a_search_at_the_start_of_a_fit(tmp_path: Path) -> None:
    """Lightning calls the callback there as well."""
    data, finder = OwnData(), BatchSizeFinder(init_val=8, max_trials=2, batch_arg_name="train_batch_size")
    module = Manual(optimizer=ADAMW)
    trainer = fit(module, tmp_path, finder, data=data)
    found = data.train_batch_size
    assert found > 8
    assert trainer.validate(module, datamodule=data, verbose=False)[0].keys() == {"val/loss"}
    assert data.train_batch_size == found


# In the middle of a training, as examples of Lightning's documentation search


class RateAtEpochOne(LearningRateFinder):
    def on_fit_start(self, *_: Any) -> None:
        pass

    def on_train_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        if trainer.current_epoch == 1:
            self.lr_find(trainer, pl_module)


class SizeAtEpochOne(BatchSizeFinder):
    def on_fit_start(self, *_: Any) -> None:
        pass

    def on_train_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        if trainer.current_epoch == 1:
            self.scale_batch_size(trainer, pl_module)


@pytest.mark.parametrize("scheduled", [False, True])
def test_a_rate_that_is_found_within_a_training_is_that_of_the_rest(scheduled: bool, tmp_path: Path) -> None:
    """Lightning's schedules go on from the rate before."""
    schedule = Schedule(partial(LinearWithWarmup, warmup_steps=0)) if scheduled else None
    finder, rates = RateAtEpochOne(num_training_steps=22, early_stop_threshold=None), Rates()
    module = Manual(optimizer=ADAMW, lr_scheduler=schedule)
    assert fit(module, tmp_path, finder, rates, epochs=3).global_step == 72
    assert finder.optimal_lr is not None
    found = finder.optimal_lr.suggestion()
    assert found is not None
    assert found != 1e-3
    expected = [(1e-3 if step < 24 else found) * ((71 - step) / 72 if scheduled else 1) for step in range(72)]
    assert rates.rates[-72:] == pytest.approx(expected)


def test_a_search_for_a_batch_size_within_a_training_is_refused(tmp_path: Path) -> None:
    finder = SizeAtEpochOne(init_val=8, max_trials=2, steps_per_trial=2)
    with pytest.raises(ModelError, match=r"BatchSizeFinder: a search for the batch size in the middle of a training"):
        fit(Manual(optimizer=ADAMW), tmp_path, finder, epochs=3)
    assert not list(tmp_path.iterdir())


def test_lightning_still_leaves_out_epochs_after_a_search_for_a_batch_size_within_a_training(tmp_path: Path) -> None:
    finder = SizeAtEpochOne(init_val=8, max_trials=2, steps_per_trial=2)
    trainer = fit(Regression(lambda module: AdamW(module.parameters(), lr=1e-3)), tmp_path, finder, epochs=3)
    assert trainer.global_step < 24 + 2 * 6, "lightning trains on: see refuse_batch_sizes_in_training"
