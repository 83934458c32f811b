"""Schedules follow their curves over exactly the run's length, scale each group, and resume."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR
from transformers import get_scheduler

from lightning_modules.errors import ModelError
from lightning_modules.schedules import ConstantWithWarmup, CosineWithWarmup, LinearWithWarmup, Schedule, Triangular
from lightning_modules.trainer.run_length import RunLength

TOTAL = 20
SCHEDULES: list[Callable[..., LRScheduler]] = [
    partial(ConstantWithWarmup, warmup_steps=5),
    partial(LinearWithWarmup, warmup_ratio=0.1),
    partial(CosineWithWarmup, warmup_ratio=0.25),
    partial(Triangular, num_cycles=2, rise=0.3, lowest=0.1, decay="halve"),
]


def an_optimizer() -> Optimizer:
    params = [torch.zeros(1, requires_grad=True) for _ in range(2)]
    return SGD([{"params": params[:1], "lr": 1.0}, {"params": params[1:], "lr": 0.5}])


def curve(schedule: LRScheduler, steps: int = TOTAL) -> list[list[float]]:
    rates = []
    for _ in range(steps):
        rates.append([group["lr"] for group in schedule.optimizer.param_groups])
        schedule.optimizer.step()
        schedule.step()
    return rates


@pytest.mark.parametrize(
    ("name", "ours"),
    [("constant_with_warmup", ConstantWithWarmup), ("linear", LinearWithWarmup), ("cosine", CosineWithWarmup)],
)
@pytest.mark.parametrize("warmup", [{"warmup_ratio": 0.12}, {"warmup_steps": 3}, {"warmup_steps": 0}])
def test_warmup_schedules_are_those_of_transformers(name: str, ours: Any, warmup: dict[str, Any]) -> None:
    steps = warmup.get("warmup_steps", math.ceil(0.12 * TOTAL))
    theirs = get_scheduler(name, an_optimizer(), num_warmup_steps=steps, num_training_steps=TOTAL)
    assert curve(ours(an_optimizer(), total_steps=TOTAL, **warmup), TOTAL + 3) == curve(theirs, TOTAL + 3)


def test_triangles_fill_the_run() -> None:
    rates = [first for first, _ in curve(Triangular(an_optimizer(), num_cycles=2, total_steps=TOTAL), TOTAL + 1)]
    triangle = [0, 0.2, 0.4, 0.6, 0.8, 1, 0.8, 0.6, 0.4, 0.2]
    assert rates == pytest.approx([*triangle, *triangle, 0], abs=1e-12)


def test_a_slanted_triangle_with_falling_peaks_and_a_floor() -> None:
    schedule = Triangular(an_optimizer(), num_cycles=2, rise=0.2, lowest=0.5, decay="halve", total_steps=TOTAL)
    rates = curve(schedule)
    assert [second for _, second in rates] == pytest.approx([first / 2 for first, _ in rates])
    assert rates[0][0] == 0.5
    assert rates[2][0] == pytest.approx(1.0)
    assert rates[6][0] == pytest.approx(0.75)
    assert rates[12][0] == pytest.approx(0.75)  # half as high above the floor


@pytest.mark.parametrize("make", SCHEDULES)
def test_groups_keep_the_ratio_of_their_rates(make: Callable[..., LRScheduler]) -> None:
    for first, second in curve(make(an_optimizer(), total_steps=TOTAL)):
        assert second == pytest.approx(first / 2)


@pytest.mark.parametrize("make", SCHEDULES)
@pytest.mark.parametrize("stop", [1, 7, 19])
def test_a_resumed_schedule_continues_exactly(make: Callable[..., LRScheduler], stop: int) -> None:
    whole = curve(make(an_optimizer(), total_steps=TOTAL))
    first = make(an_optimizer(), total_steps=TOTAL)
    start = curve(first, stop)
    saved = copy.deepcopy((first.optimizer.state_dict(), first.state_dict()))
    second = make(an_optimizer(), total_steps=TOTAL)
    second.optimizer.load_state_dict(saved[0])
    second.load_state_dict(saved[1])
    assert start + curve(second, TOTAL - stop) == whole


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (LinearWithWarmup, "total_steps: None is not allowed; LinearWithWarmup needs the number"),
        (partial(Triangular, total_steps=0), "total_steps: 0 is not allowed"),
        (partial(LinearWithWarmup, total_steps=2.5), "total_steps: 2.5 is not allowed; an integer, at least 1"),
        (partial(LinearWithWarmup, warmup_steps=0.5, total_steps=2), "warmup_steps: 0.5 is not allowed; an integer"),
        (partial(CosineWithWarmup, total_steps=math.inf), "total_steps: inf is not allowed"),
        (partial(ConstantWithWarmup, warmup_ratio=1.5, total_steps=2), "warmup_ratio: 1.5 is not allowed; 0 to 1"),
        (partial(LinearWithWarmup, warmup_steps=-1, total_steps=2), "warmup_steps: -1 is not allowed"),
        (partial(CosineWithWarmup, num_cycles=0, total_steps=2), "num_cycles: 0 is not allowed"),
        (partial(Triangular, num_cycles=-1, total_steps=2), "num_cycles: -1 is not allowed"),
        (partial(Triangular, rise=1.0, total_steps=2), "rise: 1.0 is not allowed"),
        (partial(Triangular, lowest=2.0, total_steps=2), "lowest: 2.0 is not allowed"),
        (partial(Triangular, decay="never", total_steps=2), "decay: 'never' is not allowed; none or halve"),
    ],
)
def test_settings_out_of_range_are_refused(make: Callable[..., LRScheduler], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(an_optimizer())


def test_a_schedule_that_needs_a_length_that_is_unknown_says_how_to_give_it() -> None:
    """torch 2.13's OneCycleLR speaks of its own arguments alone."""
    unknown = RunLength(None, None, None)
    for interval, how in (("step", "max_steps, or max_epochs with training data that tell"), ("epoch", "max_epochs")):
        told = rf"\(total_steps is the run's number of {interval}s, .* give the trainer {how}[^_]*\)$"
        expected = f"must define either total_steps .* {told}"
        with pytest.raises(ModelError, match=expected):
            Schedule(partial(OneCycleLR, max_lr=0.1), interval=interval).build(an_optimizer(), unknown)  # type: ignore
    with pytest.raises(ModelError, match=r"^lr_scheduler: total_steps: None is not allowed; [^(]*$"):
        Schedule(LinearWithWarmup).build(an_optimizer(), unknown)
