"""Learning rates over a time budget, on a clock that the test turns by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import pytorch_optimizer
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from transformers import Adafactor

from callbacks import ScheduleBySeconds, TrainingSeconds
from optimizers import LineSearchMeZO, ParabolicAdam, SaLSA
from tests.quiet_trainer import quiet_trainer

INITIAL = (0.1, 0.02)


class TimedModel(BoringModel):
    """Two groups, no schedule; every step takes a second of the given clock and remembers its learning rates."""

    initial = INITIAL

    def __init__(self, clock: list[float]) -> None:
        super().__init__()
        self.clock = clock
        self.rates: list[tuple[float, ...]] = []

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.clock[0] += 1
        self.rates.append(tuple(group["lr"] for group in self.trainer.optimizers[0].param_groups))
        return super().training_step(batch, batch_idx)

    def configure_optimizers(self) -> Any:
        groups = [{"params": [p], "lr": lr} for p, lr in zip(self.parameters(), self.initial, strict=True)]
        return torch.optim.SGD(groups)


def trainer(folder: Path, *extra: Any, **options: Any) -> Trainer:
    settings = {"enable_checkpointing": True, "limit_val_batches": 0} | options
    return quiet_trainer(default_root_dir=folder, callbacks=list(extra), **settings)


def test_a_linear_schedule_over_ten_seconds(tmp_path: Path, clock: list[float]) -> None:
    model = TimedModel(clock)
    run = trainer(tmp_path, TrainingSeconds(10.0), ScheduleBySeconds(warmup=0.2), max_epochs=-1)
    run.fit(model)
    scales = [0, 0.5, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8]
    for place, initial in enumerate(INITIAL):
        assert [rates[place] for rates in model.rates] == pytest.approx([initial * scale for scale in scales])


def test_a_group_that_is_added_goes_on_from_the_rate_that_it_comes_with(tmp_path: Path, clock: list[float]) -> None:
    class Growing(TimedModel):
        def on_train_epoch_start(self) -> None:
            if self.current_epoch == 1:  # after five of ten seconds, at 5 / 8 of the initial rates
                extra = torch.nn.Parameter(torch.zeros(1))
                self.trainer.optimizers[0].add_param_group({"params": [extra], "lr": 0.4})

    model = Growing(clock)
    clocked = (TrainingSeconds(10.0), ScheduleBySeconds(warmup=0.2))
    trainer(tmp_path, *clocked, max_epochs=-1, limit_train_batches=5).fit(model)
    assert [len(rates) for rates in model.rates] == [2] * 5 + [3] * 5
    expected = [0.4, 0.4 * 4 / 5, 0.4 * 3 / 5, 0.4 * 2 / 5, 0.4 / 5]
    assert [rates[2] for rates in model.rates[5:]] == pytest.approx(expected)


def test_a_resumed_run_goes_on_from_the_initial_rates(
    tmp_path: Path, clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    parts = (TrainingSeconds(10.0), ScheduleBySeconds(warmup=0.2))
    first = trainer(tmp_path, *parts, max_epochs=1, limit_train_batches=4)
    first.fit(TimedModel(clock))
    first.save_checkpoint(tmp_path / "a.ckpt")
    model = TimedModel(clock)
    second = trainer(tmp_path, TrainingSeconds(10.0), ScheduleBySeconds(warmup=0.2), max_epochs=-1)
    second.fit(model, ckpt_path=tmp_path / "a.ckpt", weights_only=False)
    assert [rates[0] for rates in model.rates] == pytest.approx([0.1 * k / 8 for k in (6, 5, 4, 3, 2, 1)])


def test_the_next_fit_follows_the_rates_of_its_own_optimizer(tmp_path: Path, clock: list[float]) -> None:
    parts = (TrainingSeconds(10.0), ScheduleBySeconds("constant", warmup=0.0))
    trainer(tmp_path, *parts, max_steps=1, enable_checkpointing=False).fit(TimedModel(clock))
    model = TimedModel(clock)
    model.initial = (0.5, 0.25)
    trainer(tmp_path, *parts, max_steps=1, enable_checkpointing=False).fit(model)
    assert model.rates == [(0.5, 0.25)]


def test_the_shapes() -> None:
    cosine, constant = ScheduleBySeconds("cosine", warmup=0.5), ScheduleBySeconds("constant", warmup=0.0)
    assert cosine.scale(0.25) == 0.5
    assert cosine.scale(0.75) == pytest.approx((1 + math.cos(math.pi / 2)) / 2)
    assert cosine.scale(1.0) == pytest.approx(0.0)
    assert [constant.scale(p) for p in (0.0, 0.5, 1.0)] == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("extra", [(), (TrainingSeconds(),)])
def test_without_a_budget_there_is_nothing_to_follow(tmp_path: Path, clock: list[float], extra: tuple[Any]) -> None:
    with pytest.raises(MisconfigurationException, match=r"add callbacks\.TrainingSeconds with max_seconds"):
        trainer(tmp_path, *extra, ScheduleBySeconds(), max_epochs=1).fit(TimedModel(clock))


def test_a_second_schedule_is_refused(tmp_path: Path, clock: list[float]) -> None:
    with pytest.raises(MisconfigurationException, match="would overrule each other"):
        trainer(tmp_path, TrainingSeconds(1.0), ScheduleBySeconds(), max_epochs=1).fit(BoringModel())


class GivenOptimizer(TimedModel):
    make: Any

    def configure_optimizers(self) -> Any:
        return self.make(self.parameters())


@pytest.mark.parametrize(
    ("optimizer", "reason"),
    [
        (SaLSA, "searches for its own step size"),
        (LineSearchMeZO, "searches for its own step size"),
        (pytorch_optimizer.AliG, "keeps no learning rate"),
        (Adafactor, "keeps no learning rate"),
    ],
)
def test_an_optimizer_without_a_rate_to_set_is_refused(
    tmp_path: Path, clock: list[float], optimizer: Any, reason: str
) -> None:
    model = GivenOptimizer(clock)
    model.make = optimizer
    run = trainer(tmp_path, TrainingSeconds(1.0), ScheduleBySeconds(), max_epochs=1, enable_checkpointing=False)
    with pytest.raises(MisconfigurationException, match=f"{optimizer.__name__} {reason}"):
        run.fit(model)


@pytest.mark.parametrize("warmup", [-0.1, 1.0])
def test_a_warmup_out_of_range_is_refused(warmup: float) -> None:
    with pytest.raises(MisconfigurationException, match=r"warmup: .* is not allowed"):
        ScheduleBySeconds(warmup=warmup)


class SearchingModel(TimedModel):
    """Its optimizer anneals by itself, and calls `training_step` for its trials too."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return BoringModel.training_step(self, batch, batch_idx)

    def optimizer_step(self, *arguments: Any, **named: Any) -> None:
        super().optimizer_step(*arguments, **named)
        self.clock[0] += 1
        (optimizer,) = self.trainer.optimizers
        assert isinstance(optimizer, ParabolicAdam)
        assert optimizer.progress is not None
        self.rates.append((optimizer.progress,))

    def configure_optimizers(self) -> Any:
        return ParabolicAdam(self.parameters())


def test_an_optimizer_that_anneals_itself_is_told_the_progress(tmp_path: Path, clock: list[float]) -> None:
    model = SearchingModel(clock)
    trainer(tmp_path, TrainingSeconds(10.0), ScheduleBySeconds(), max_epochs=-1).fit(model)
    assert [done for (done,) in model.rates] == pytest.approx([k / 10 for k in range(10)])


class RecordedModel(TimedModel):
    """Every rank's steps take a time of their own; writes its learning rates into a folder."""

    folder: Path

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.clock[0] += 2 * self.global_rank  # a step takes 1 second on rank 0, 3 on rank 1
        return super().training_step(batch, batch_idx)

    def on_train_end(self) -> None:
        torch.save(self.rates, self.folder / f"rank{self.global_rank}.pt")


@pytest.mark.distributed
def test_two_ranks_follow_the_clock_of_the_first(tmp_path: Path, clock: list[float]) -> None:
    model = RecordedModel(clock)
    model.folder = tmp_path
    ranks = {"devices": 2, "strategy": DDPStrategy(start_method="fork", process_group_backend="gloo")}
    followers = (TrainingSeconds(4.0), ScheduleBySeconds("linear", warmup=0.0))
    trainer(tmp_path, *followers, max_epochs=-1, enable_checkpointing=False, **ranks).fit(model)
    first, second = (torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2))
    assert [rates[0] for rates in first] == pytest.approx([0.1 * k / 4 for k in (4, 3, 2, 1)])
    assert first == second
