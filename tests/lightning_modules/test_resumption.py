"""A run that goes on from a checkpoint ends, bit for bit, where one that was not interrupted does."""

from __future__ import annotations

import os
import random
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from pickle import UnpicklingError
from tempfile import mkdtemp
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import schedulefree
import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy
from prodigyopt import Prodigy
from torch import Tensor, nn
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset, TensorDataset
from torchdata.stateful_dataloader import StatefulDataLoader

from callbacks import SaveOnInterrupt
from datamodules.batches.length_grouped_sampler import LengthGroupedSampler
from lightning_modules import ClosureModule, ModelError, Schedule
from lightning_modules.checkpoints.resumption import _data_fetcher, _is_plain
from lightning_modules.steps.optimizer_modes import OptimizerModes
from tests.optimizers.all_optimizers import OPTIMIZERS
from tests.quiet_trainer import quiet_trainer
from tests.tiny_models import TinyLogger

EXAMPLES, BATCH = 22, 4  # six batches, the last one of two examples
OTHERS: dict[str, Callable[..., Any]] = {
    "adamw": partial(torch.optim.AdamW, lr=1e-2),
    "sgd, momentum": partial(torch.optim.SGD, lr=1e-2, momentum=0.9),
    "schedule-free adamw": partial(schedulefree.AdamWScheduleFree, lr=1e-2, warmup_steps=3),
    "prodigy": partial(Prodigy, lr=1.0),
}
ALL = OPTIMIZERS | OTHERS


class Net(ClosureModule):
    """Two layers with dropout between them."""

    def __init__(self, **training: Any) -> None:
        super().__init__(**training)
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Dropout(0.3), nn.Linear(8, 2))

    def compute_loss(self, batch: Any) -> Tensor:
        return nn.functional.cross_entropy(self.layers(batch[0]), batch[1])


def tensors() -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(EXAMPLES, 4, generator=generator)
    return inputs, (inputs[:, 0] + 0.5 * inputs[:, 1] > 0).long(), torch.arange(EXAMPLES)


def loader(shuffle: bool = True, **options: Any) -> DataLoader:
    return DataLoader(TensorDataset(*tensors()), batch_size=BATCH, shuffle=shuffle, **options)


class Journal(TinyLogger):
    """Keeps what is logged, but for what depends on the clock, and for what a batch without a step logs once more."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[tuple[int | None, dict[str, float]]] = []

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        kept = {name: value for name, value in metrics.items() if "time" not in name and "second" not in name}
        if not self.lines or self.lines[-1][1] != kept:
            self.lines.append((step, kept))


class Course(Callback):
    """Keeps which examples each batch has; saves a checkpoint at the end of each of the named batches."""

    def __init__(self, folder: Path | None = None, save_after: tuple[int, ...] = ()) -> None:
        self.folder, self.save_after = folder, save_after
        self.batches: list[tuple[int, int, list[int]]] = []
        self.counts: dict[str, tuple[int, int]] = {}
        self.epoch_ends: list[int] = []

    def on_train_batch_end(self, trainer: Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.batches.append((trainer.current_epoch, batch_idx, batch[2].tolist()))
        if len(self.batches) in self.save_after:
            self.save(trainer, f"batch{len(self.batches)}")

    def on_train_epoch_end(self, trainer: Trainer, module: Any) -> None:
        self.epoch_ends.append(trainer.current_epoch)
        self.save(trainer, f"epoch{trainer.current_epoch}")

    def on_validation_end(self, trainer: Trainer, module: Any) -> None:
        self.save(trainer, f"validation{len(self.batches)}")

    def save(self, trainer: Trainer, name: str) -> None:
        if self.folder is not None and not trainer.sanity_checking:
            self.counts[name] = len(self.batches), len(trainer.logger.lines)
            trainer.save_checkpoint(self.folder / f"{name}.ckpt")


def run(
    optimizer: Callable[..., Any],
    *,
    seed: int = 1,
    checkpoint: Path | None = None,
    course: Course | None = None,
    make_loader: Callable[[], Any] = loader,
    module: Callable[..., ClosureModule] = Net,
    training: dict[str, Any] | None = None,
    **options: Any,
) -> tuple[Trainer, Course]:
    """Train with everything made anew, from a seed; go on from a checkpoint if there is one."""
    seed_everything(seed, verbose=False)
    course = course or Course()
    settings: dict[str, Any] = {"max_epochs": 3, "log_every_n_steps": 1, "logger": Journal()} | options
    trainer = quiet_trainer(callbacks=[course, *settings.pop("callbacks", [])], **settings)
    torch.randn(seed)  # weights and order differ from seed to seed anyway; so does where the stream stands
    trainer.fit(module(optimizer=optimizer, **(training or {})), make_loader(), loader(False), ckpt_path=checkpoint)
    return trainer, course


def final_state(trainer: Trainer) -> dict[str, Any]:
    optimizer = trainer.optimizers[0].state_dict()
    for group in optimizer["param_groups"]:
        group.pop("differentiable", None)  # torch 2.13 adds it to groups when it loads them
    return {
        "weights": trainer.lightning_module.state_dict(),
        "optimizer": optimizer,
        "schedules": [config.scheduler.state_dict() for config in trainer.lr_scheduler_configs],
        "generators": (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()),
        "steps": trainer.global_step,
        "epoch": trainer.current_epoch,
    }


def assert_same(one: Any, other: Any, where: str = "") -> None:
    assert type(one) is type(other), where
    if isinstance(one, Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_same(one[key], other[key], f"{where}/{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for number, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_same(a, b, f"{where}/{number}")
    else:
        assert one == other, where


MOMENTS = {"epoch's end": "epoch0", "mid-epoch": "batch8", "mid-accumulation": "batch9"}


@lru_cache(maxsize=2)
def whole_run(name: str) -> tuple[dict[str, Any], Course, list[Any]]:
    course = Course(Path(mkdtemp()), save_after=(8, 9))
    trainer, course = run(ALL[name], course=course, training={"accumulate_grad_batches": 2}, max_epochs=2)
    return final_state(trainer), course, trainer.logger.lines


def assert_resumes(
    name: str, whole: tuple[dict[str, Any], Course, list[Any]], optimizer: Callable[..., Any], **options: Any
) -> None:
    state, course, lines = whole
    batches, logged = course.counts[name]
    assert course.folder is not None
    trainer, resumed = run(optimizer, seed=7, checkpoint=course.folder / f"{name}.ckpt", **options)
    assert resumed.batches == course.batches[batches:]
    assert_same(final_state(trainer), state)
    # What a batch logs comes after its end.
    missing = lines[logged : len(lines) - len(trainer.logger.lines)]
    assert len(missing) <= name.startswith("batch")
    assert_same(trainer.logger.lines, lines[logged + len(missing) :])


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("name", ALL)
def test_a_resumed_run_is_the_run_that_was_not_interrupted(name: str, moment: str) -> None:
    options: dict[str, Any] = {"training": {"accumulate_grad_batches": 2}, "max_epochs": 2}
    assert_resumes(MOMENTS[moment], whole_run(name), ALL[name], **options)


# Where Lightning 2.6.6 goes on wrongly by itself: the last batch of an epoch, a validation within an epoch, max_steps
# that end within an epoch, and epochs counted by steps.
PLACES: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "last batch": ({}, ("batch6", "batch12")),
    "last batch, no validation": ({"limit_val_batches": 0}, ("batch6",)),
    "last batch of a stream, no validation": (
        {"limit_val_batches": 0, "make_loader": lambda: DataLoader(Stream(), BATCH)},
        ("batch6", "batch12"),
    ),
    "validations of every other epoch": ({"check_val_every_n_epoch": 2}, ("batch6", "batch12")),
    "before and after a validation": ({"val_check_interval": 0.5}, ("batch3", "validation3", "validation6")),
    "validations across epochs": (
        {"val_check_interval": 4, "check_val_every_n_epoch": None},
        ("batch8", "validation8"),
    ),
    "steps": ({"max_epochs": None, "max_steps": 15}, ("epoch0", "batch8", "batch12")),
    "part of the data": ({"limit_train_batches": 4}, ("batch4", "batch6", "epoch1")),
}
HALVED = Schedule(partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.5), "epoch")
PLATEAU = Schedule(partial(torch.optim.lr_scheduler.ReduceLROnPlateau, patience=0, threshold=0.5))


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("schedule", [HALVED, PLATEAU])
def test_a_run_goes_on_from_any_place_in_an_epoch(place: str, schedule: Schedule, tmp_path: Path) -> None:
    options, names = PLACES[place]
    if schedule is PLATEAU and "limit_val_batches" in options:
        return
    options = options | {"training": {"lr_scheduler": schedule}}
    trainer, course = run(OTHERS["adamw"], course=Course(tmp_path, (3, 4, 6, 8, 12)), **options)
    whole = final_state(trainer), course, trainer.logger.lines
    for name in names:
        assert_resumes(name, whole, OTHERS["adamw"], **options)


@pytest.mark.parametrize("schedule", [HALVED, PLATEAU])
@pytest.mark.parametrize("first", ["batch2", "batch6"])
def test_a_run_that_was_resumed_is_resumed_once_more(first: str, schedule: Schedule, tmp_path: Path) -> None:
    options: dict[str, Any] = {"training": {"lr_scheduler": schedule}, "max_epochs": 2}
    whole, _ = run(OTHERS["adamw"], course=Course(tmp_path / "whole", (2, 6)), **options)
    path = tmp_path / "whole" / f"{first}.ckpt"
    trainer, resumed = run(OTHERS["adamw"], seed=7, checkpoint=path, course=Course(tmp_path / "resumed"), **options)
    once = final_state(whole), resumed, trainer.logger.lines
    moments = [name for name, (batches, _) in resumed.counts.items() if batches < len(resumed.batches)]
    assert len(moments) == 2  # a validation and the end of its epoch
    for moment in moments:
        assert_resumes(moment, once, OTHERS["adamw"], **options)


def test_saving_has_no_effect_on_a_run(tmp_path: Path) -> None:
    for optimizer in OTHERS["schedule-free adamw"], OTHERS["adamw"]:
        states = [final_state(run(optimizer, course=course)[0]) for course in (Course(tmp_path, (2, 6, 7)), Course())]
        assert_same(*states)


@pytest.mark.parametrize("interval", [1.0, 2])
@pytest.mark.parametrize("by_hand", [False, True])
@pytest.mark.parametrize("name", ["adamw", "schedule-free adamw"])
def test_a_run_that_max_steps_ended_within_an_epoch_goes_on_there(
    name: str, by_hand: bool, interval: float, tmp_path: Path
) -> None:
    training = {"lr_scheduler": HALVED}
    options: dict[str, Any] = {"max_epochs": None, "training": training, "val_check_interval": interval}
    whole, course = run(ALL[name], max_steps=15, **options)
    trainer, first = run(ALL[name], max_steps=8, course=Course(tmp_path), **options)
    if by_hand:
        trainer.save_checkpoint(tmp_path / "epoch1.ckpt")
    resumed, second = run(ALL[name], max_steps=15, seed=7, checkpoint=tmp_path / "epoch1.ckpt", **options)
    assert first.batches + second.batches == course.batches
    assert_same(final_state(resumed), final_state(whole))
    assert trainer.logger.lines + resumed.logger.lines == whole.logger.lines


@pytest.mark.parametrize("name", ["salsa", "adamw"])
def test_lightnings_average_of_the_weights_goes_on(name: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"training": {"accumulate_grad_batches": 2}}

    def averaged(**further: Any) -> tuple[Trainer, Course]:
        return run(ALL[name], callbacks=[EMAWeightAveraging(decay=0.9, update_every_n_steps=2)], **options, **further)

    trainer, course = averaged(course=Course(tmp_path, (8, 9)))
    whole = final_state(trainer)
    plain = final_state(run(ALL[name], **options)[0])
    assert not torch.equal(whole["weights"]["layers.0.weight"], plain["weights"]["layers.0.weight"])
    for moment in MOMENTS.values():
        resumed, rest = averaged(seed=7, checkpoint=tmp_path / f"{moment}.ckpt")
        assert rest.batches == course.batches[course.counts[moment][0] :]
        assert_same(final_state(resumed), whole)


def test_two_averages_of_the_weights_are_refused() -> None:
    with pytest.raises(ModelError, match=r"^trainer.callbacks: EMAWeightAveraging: AdamWScheduleFree averages the we"):
        run(OTHERS["schedule-free adamw"], callbacks=[EMAWeightAveraging()])


class Stop(Callback):
    """Stops a run after a number of steps, as Lightning's Timer (`Trainer(max_time=…)`) and EarlyStopping do."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        trainer.should_stop = trainer.global_step >= self.steps


@pytest.mark.parametrize("saved", ["validation8", "epoch1", "by hand"])
def test_a_run_that_was_stopped_within_an_epoch_goes_on_there(saved: str, tmp_path: Path) -> None:
    """Lightning 2.6.6 validates where it stops, which draws random numbers that the uninterrupted run does not."""
    whole, course = run(OTHERS["adamw"])
    trainer, first = run(OTHERS["adamw"], course=Course(tmp_path), callbacks=[Stop(8)])
    if saved == "by hand":
        trainer.save_checkpoint(tmp_path / "by hand.ckpt")
    resumed, second = run(OTHERS["adamw"], seed=7, checkpoint=tmp_path / f"{saved}.ckpt")
    assert first.batches + second.batches == course.batches
    assert_same(final_state(resumed), final_state(whole))


def dataset() -> TensorDataset:
    return TensorDataset(*tensors())


class Stream(IterableDataset):
    """Rows in an order of each epoch, of no known length."""

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        rows = dataset()
        yield from (rows[index] for index in torch.randperm(EXAMPLES).tolist())


class NoisyStream(Stream):
    """The same, with noise from the stream of random numbers that dropout draws from as well."""

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        for inputs, *others in super().__iter__():
            yield inputs + 0.1 * torch.randn(4), *others


class StatefulStream(Stream):
    """The same, with a state."""

    def __init__(self) -> None:
        self.order, self.place, self.resumed = torch.zeros(0), 0, False

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        if not self.resumed:
            self.order, self.place = torch.randperm(EXAMPLES), 0
        self.resumed = False
        rows = dataset()
        while self.place < EXAMPLES:
            self.place += 1
            yield rows[self.order[self.place - 1]]

    def state_dict(self) -> dict[str, Any]:
        return {"order": self.order, "place": self.place}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.order, self.place, self.resumed = state["order"], state["place"], True


LOADERS: dict[str, Callable[[], Any]] = {
    "in order": partial(loader, False),
    "workers": partial(loader, num_workers=2),
    "workers that stay": partial(loader, num_workers=2, persistent_workers=True),
    "a generator of its own": lambda: loader(generator=torch.Generator().manual_seed(5)),
    "set_epoch": lambda: DataLoader(dataset(), BATCH, sampler=DistributedSampler(dataset(), 1, 0, seed=3)),
    "by length": lambda: DataLoader(
        dataset(), BATCH, num_workers=2, sampler=LengthGroupedSampler([row % 7 for row in range(EXAMPLES)], BATCH)
    ),
    "stateful": lambda: StatefulDataLoader(dataset(), BATCH, shuffle=True),
    "stateful, workers": lambda: StatefulDataLoader(dataset(), BATCH, shuffle=True, num_workers=2),
    "stream": lambda: DataLoader(Stream(), BATCH),
    "stream with noise": lambda: DataLoader(NoisyStream(), BATCH),
    "stateful stream": lambda: StatefulDataLoader(StatefulStream(), BATCH),
    "stateful, set_epoch": lambda: StatefulDataLoader(
        dataset(), BATCH, sampler=DistributedSampler(dataset(), 1, 0, seed=3)
    ),
}


@pytest.mark.parametrize("make", LOADERS)
@pytest.mark.filterwarnings("error:.*not resumable")
def test_the_rest_of_an_epochs_order_comes_and_then_that_of_the_next(make: str, tmp_path: Path) -> None:
    options = {"make_loader": LOADERS[make]}
    trainer, course = run(OTHERS["adamw"], course=Course(tmp_path, (2, 8)), **options)
    whole = final_state(trainer), course, trainer.logger.lines
    orders = {tuple(row for epoch, _, rows in course.batches if epoch == number for row in rows) for number in range(3)}
    assert len(orders) == (1 if make == "in order" else 3)
    assert all(sorted(order) == list(range(EXAMPLES)) for order in orders)
    for name in ("batch2", "batch8", "epoch0"):
        assert_resumes(name, whole, OTHERS["adamw"], **options)


class OwnGenerators(Net):
    """A net that adds noise from generators of all kinds that it holds."""

    def __init__(self, **training: Any) -> None:
        super().__init__(**training)
        self.of_torch = self.layers[0].generator = torch.Generator().manual_seed(0)
        self.of_python = random.Random(0)
        self.of_numpy, self.of_numpys_old = np.random.default_rng(0), np.random.RandomState(0)

    def compute_loss(self, batch: Any) -> Tensor:
        noise = torch.randn(4, generator=self.of_torch) + self.of_python.gauss(0, 1)
        noise = noise + float(self.of_numpy.normal()) + float(self.of_numpys_old.normal())
        return super().compute_loss((batch[0] + 0.3 * noise, *batch[1:]))


def test_generators_that_a_module_holds_go_on(tmp_path: Path) -> None:
    options: dict[str, Any] = {"module": OwnGenerators, "max_epochs": 2}
    trainer, course = run(ALL["salsa"], course=Course(tmp_path, (8,)), **options)
    whole = final_state(trainer), course, trainer.logger.lines
    assert_resumes("batch8", whole, ALL["salsa"], **options)


def test_a_run_in_double_precision_goes_on_bit_for_bit(tmp_path: Path) -> None:
    options = {"precision": "64-true", "make_loader": lambda: DataLoader(TensorDataset(*tensors()), BATCH)}
    trainer, course = run(OTHERS["adamw"], course=Course(tmp_path, (8,)), **options)
    whole = final_state(trainer), course, trainer.logger.lines
    assert_resumes("batch8", whole, OTHERS["adamw"], **options)


def test_a_stateful_loader_loads_no_batch_twice(tmp_path: Path) -> None:
    class Counting(TensorDataset):
        loaded = 0

        def __getitem__(self, index: Any) -> Any:
            type(self).loaded += 1
            return super().__getitem__(index)

    def make() -> Any:
        return StatefulDataLoader(Counting(*tensors()), BATCH, shuffle=True)

    run(OTHERS["adamw"], course=Course(tmp_path, (8,)), make_loader=make)
    Counting.loaded = 0
    run(OTHERS["adamw"], checkpoint=tmp_path / "batch8.ckpt", make_loader=make)
    assert Counting.loaded == 3 * EXAMPLES - 8 * BATCH + (EXAMPLES % BATCH != 0) * 2


def printed(module: ClosureModule, checkpoint: Path | None) -> float:
    trainer = quiet_trainer()
    return trainer.validate(module, loader(False), ckpt_path=checkpoint, verbose=False)[0]["val/loss"]


def test_a_checkpoint_of_any_moment_holds_the_weights_that_would_have_been_validated(tmp_path: Path) -> None:
    optimizer = OTHERS["schedule-free adamw"]
    course = Course(tmp_path, save_after=(3, 4, 5))
    trainer, _ = run(optimizer, course=course, val_check_interval=1)
    losses = [line["val/loss"] for _, line in trainer.logger.lines if "val/loss" in line]
    for batch in (3, 4, 5):
        module = Net(optimizer=optimizer)
        assert printed(module, tmp_path / f"batch{batch}.ckpt") == pytest.approx(losses[batch - 1], rel=1e-6)
    first, second = (torch.load(tmp_path / f"{name}4.ckpt", weights_only=True) for name in ("batch", "validation"))
    assert_same(first["state_dict"], second["state_dict"])
    assert_same(first["training_weights"], second["training_weights"])
    assert printed(trainer.lightning_module, None) == pytest.approx(losses[-1], rel=1e-6)


class Interrupting(Callback):
    """Sends the signal that ends a run, in a training batch or in a validation batch."""

    def __init__(self, batch: int, validating: bool) -> None:
        self.place, self.seen = (batch, validating), 0

    def on_train_batch_start(self, *_: Any) -> None:
        self.seen += 1
        self.send(False)

    def on_validation_batch_start(self, *_: Any) -> None:
        self.send(True)

    def send(self, validating: bool) -> None:
        if self.place == (self.seen, validating):
            self.place = (0, False)
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize(("batch", "validating"), [(8, False), (9, True), (12, True)])
def test_a_run_that_a_signal_ends_goes_on_bit_for_bit(batch: int, validating: bool, tmp_path: Path) -> None:
    optimizer, options = OTHERS["schedule-free adamw"], {"val_check_interval": 0.5}
    whole, course = run(optimizer, **options)
    callbacks = [Interrupting(batch, validating), ModelCheckpoint(tmp_path), SaveOnInterrupt()]
    with pytest.raises(SystemExit):
        run(optimizer, callbacks=callbacks, enable_checkpointing=True, **options)
    resumed, rest = run(optimizer, seed=7, checkpoint=tmp_path / "last-interrupted.ckpt", **options)
    assert rest.batches == course.batches[batch:]
    assert_same(final_state(resumed), final_state(whole))
    lines = resumed.logger.lines
    assert lines == whole.logger.lines[-len(lines) :]


@dataclass
class Rows:
    inputs: Tensor
    labels: Tensor


@pytest.mark.parametrize(
    ("batch", "is_plain"),
    [
        ({"a": torch.ones(2), 1: [None, 2.5, (True, "text")]}, True),
        ([torch.ones(2), Rows(torch.ones(1), torch.ones(1))], False),
        ({"a": [Rows(torch.ones(1), torch.ones(1))]}, False),
        ({Path("a"): torch.ones(2)}, False),
        (np.ones(2), False),
    ],
)
def test_what_a_checkpoint_holds_is_what_torch_reads_without_classes(
    batch: Any, is_plain: bool, tmp_path: Path
) -> None:
    assert _is_plain(batch) == is_plain
    torch.save(batch, tmp_path / "batch")
    with nullcontext() if is_plain else pytest.raises(UnpicklingError):
        torch.load(tmp_path / "batch", weights_only=True)


def test_waiting_batches_that_a_checkpoint_cannot_hold_are_told(tmp_path: Path) -> None:
    class OfRows(Net):
        def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            return [*batch[:2], batch[2], Rows(*batch[:2])]

    options: dict[str, Any] = {"module": OfRows, "training": {"accumulate_grad_batches": 2}}
    run(OTHERS["adamw"], course=Course(tmp_path, (3,)), **options)
    torch.load(tmp_path / "batch3.ckpt", weights_only=True)
    with pytest.warns(UserWarning, match="1 batches of an accumulated step are left out"):
        run(OTHERS["adamw"], checkpoint=tmp_path / "batch3.ckpt", **options)


@pytest.mark.parametrize(("limit", "told"), [(1.0, True), (4, True), (None, False)])
def test_batches_of_another_size_within_an_epoch_are_told(limit: float | None, told: bool, tmp_path: Path) -> None:
    run(OTHERS["adamw"], course=Course(tmp_path, (2,)), limit_train_batches=3)

    def resized() -> DataLoader:
        return DataLoader(TensorDataset(*tensors()), batch_size=BATCH // 2 if told else BATCH, shuffle=True)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run(OTHERS["adamw"], checkpoint=tmp_path / "batch2.ckpt", make_loader=resized, limit_train_batches=limit)
    lines = [str(each.message) for each in caught if "within an epoch of" in str(each.message)]
    assert len(lines) == told
    assert not told or lines[0].startswith(
        "the checkpoint is from within an epoch of 6 batches, and this run has epochs of 11:"
    )


@pytest.mark.parametrize("name", ["batch6", "batch8", "epoch0"])
def test_a_checkpoint_of_an_earlier_version_is_loaded(name: str, tmp_path: Path) -> None:
    _, course = run(OTHERS["adamw"], course=Course(tmp_path, (6, 8)))
    path = tmp_path / f"{name}.ckpt"
    older = torch.load(path, weights_only=True)
    del older["resumption"]
    torch.save(older, path)
    trainer, resumed = run(OTHERS["adamw"], checkpoint=path)
    assert trainer.global_step == 18
    assert [batch[:2] for batch in resumed.batches] == [batch[:2] for batch in course.batches[-len(resumed.batches) :]]


def test_lightnings_iterator_is_checked_by_name() -> None:
    trainer: Any = SimpleNamespace(fit_loop=SimpleNamespace(data_fetcher="renamed"))
    with pytest.raises(RuntimeError, match=r"lightning 2\.\d+.*Trainer has no fit_loop\._data_fetcher"):
        _data_fetcher(trainer)


class OnRank(Net):
    """Every rank draws random numbers of its own."""

    def setup(self, stage: str) -> None:
        super().setup(stage)
        torch.manual_seed(torch.initial_seed() + self.global_rank)

    def on_train_end(self) -> None:
        (course,) = (each for each in self.trainer.callbacks if isinstance(each, Course))
        state = final_state(self.trainer) | {"batches": course.batches}
        torch.save(state, f"{self.trainer.default_root_dir}/rank{self.global_rank}.pt")


@pytest.mark.distributed
def test_two_ranks_go_on_within_an_accumulation_and_one_rank_says_that_it_differs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options: dict[str, Any] = {
        "module": OnRank,
        "training": {"accumulate_grad_batches": 2},
        "default_root_dir": tmp_path,
        "max_epochs": 2,
    }

    def on_two(**more: Any) -> list[dict[str, Any]]:
        strategy = DDPStrategy(start_method="fork", process_group_backend="gloo")
        run(OTHERS["adamw"], devices=2, strategy=strategy, **options, **more)
        return [torch.load(tmp_path / f"rank{rank}.pt", weights_only=False) for rank in range(2)]

    whole = on_two(course=Course(tmp_path, (4,)))
    resumed = on_two(checkpoint=tmp_path / "batch4.ckpt", seed=7)
    for one, other in zip(whole, resumed, strict=True):
        assert one["batches"][4:] == other["batches"]
        assert_same(other | {"batches": 0}, one | {"batches": 0})
    assert not torch.equal(whole[0]["generators"][0], whole[1]["generators"][0])

    trainer, _ = run(OTHERS["adamw"], checkpoint=tmp_path / "batch4.ckpt", **options)
    assert trainer.current_epoch == 2
    assert "the checkpoint is of 2 ranks and this run has 1" in caplog.text


class Lossy(torch.optim.SGD):
    """Computes either set of weights from the other one, and loses the last bits."""

    def train(self) -> None:
        self.scale(3.0)

    def eval(self) -> None:
        self.scale(1 / 3.0)

    def scale(self, factor: float) -> None:
        with torch.no_grad():
            self.param_groups[0]["params"][0].mul_(factor)


def test_training_weights_come_back_bit_for_bit() -> None:
    weight = nn.Parameter(torch.randn(1000))
    optimizer, modes = Lossy([weight], lr=0.1), OptimizerModes()
    modes.train([optimizer])
    before = weight.detach().clone()
    modes.evaluate([optimizer])
    assert not torch.equal(weight, before)
    modes.train([optimizer])
    assert torch.equal(weight, before)
