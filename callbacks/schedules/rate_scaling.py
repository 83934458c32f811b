"""The learning rates of an optimizer and of its schedules, scaled together."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from optimizers.step_direction import set_value

# Where torch 2.13 keeps learning rates: in the groups, and in schedules. Schedules that keep some elsewhere are found
# by what they do.
_OF_GROUPS = ("lr", "initial_lr", "max_lr", "min_lr", "swa_lr")
_OF_SCHEDULES = ("base_lrs", "max_lrs", "min_lrs", "_last_lr", "eta_min", "default_min_lr")
# Longer schedules are followed for so many steps.
_MAX_FOLLOWED = 100_000
_TOLERANCE = 1e-5


def scale_rates(optimizer: Optimizer, schedules: Sequence[Any], factor: float) -> None:
    """Multiply all learning rates of an optimizer, and what its schedules compute further ones from.

    The rate of groups that are yet to be added is one of them, unless they come with their own.

    Args:
        optimizer: The optimizer.
        schedules: The schedules of its rates; those within `SequentialLR` and `ChainedScheduler` are found.
        factor: The factor.
    """
    if isinstance(optimizer.defaults.get("lr"), (int, float, Tensor)):
        # Not in place: torch keeps a tensor that it was given here and in the groups.
        optimizer.defaults["lr"] = optimizer.defaults["lr"] * factor
    for group in optimizer.param_groups:
        for name in _OF_GROUPS:
            if isinstance(group.get(name), (int, float, Tensor)):
                set_value(group, name, float(group[name]) * factor)
    for schedule in schedules:
        _scale_schedule(schedule, factor)


def _scale_schedule(schedule: Any, factor: float) -> None:
    for name in _OF_SCHEDULES:
        value = getattr(schedule, name, None)
        if isinstance(value, list):
            setattr(schedule, name, [rate * factor for rate in value])
        elif isinstance(value, (int, float)):
            setattr(schedule, name, value * factor)
    for inner in getattr(schedule, "_schedulers", ()):
        _scale_schedule(inner, factor)


def peaks_of(optimizer: Optimizer, schedules: Sequence[tuple[Any, int]], shared: Sequence[object] = ()) -> list[float]:
    """Return the highest learning rate of each group in the run, and make sure that its schedules can be scaled.

    A copy of each schedule is followed to the end. One that answers to what is measured (`ReduceLROnPlateau`) only
    lowers the present rates.

    Args:
        optimizer: The optimizer.
        schedules: Its schedules, and how many times each of them will advance.
        shared: Objects that are not to be copied with a schedule that holds them.

    Raises:
        MisconfigurationException: A schedule does not follow when its rates are scaled.
    """
    peaks = [float(group["lr"]) for group in optimizer.param_groups]
    for schedule, advances in schedules:
        if not isinstance(schedule, LRScheduler) or isinstance(schedule, ReduceLROnPlateau):
            if isinstance(schedule, ReduceLROnPlateau):
                continue
            raise MisconfigurationException(
                f"MeasuredLearningRate: {type(schedule).__name__} is no torch schedule (LRScheduler), and its rates "
                "cannot be scaled; choose another one, or leave the callback out"
            )
        rates = _followed(optimizer, schedule, advances, 1.0, shared)
        halves = _followed(optimizer, schedule, advances, 0.5, shared)
        peaks = [max(peak, *column) for peak, column in zip(peaks, zip(*rates, strict=True), strict=True)]
        largest = max(peaks)
        for row, half in zip(rates, halves, strict=True):
            if any(abs(a - 2 * b) > _TOLERANCE * largest for a, b in zip(row, half, strict=True)):
                raise MisconfigurationException(
                    f"MeasuredLearningRate: {type(schedule).__name__} keeps learning rates in a place of its own, and "
                    "does not follow when they are scaled; choose another schedule, or leave the callback out"
                )
    return peaks


def _followed(
    optimizer: Optimizer, schedule: LRScheduler, advances: int, factor: float, shared: Sequence[object]
) -> list[list[float]]:
    """Return the rates that a schedule would set, from the present ones times a factor on."""
    stand_in = torch.optim.SGD([{"params": [torch.zeros(1)]} for _ in optimizer.param_groups], lr=0.0)
    for group, real in zip(stand_in.param_groups, optimizer.param_groups, strict=True):
        numbers = {name: value for name, value in real.items() if name != "params"}
        group.update({name: value.clone() if isinstance(value, Tensor) else value for name, value in numbers.items()})
    memo: dict[int, Any] = {id(each): each for each in shared} | {id(optimizer): stand_in}
    twin = copy.deepcopy(schedule, memo)
    scale_rates(stand_in, [twin], factor)
    rates = [[float(group["lr"]) for group in stand_in.param_groups]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch expects a step of the optimizer before each
        for _ in range(min(advances, _MAX_FOLLOWED)):
            try:
                twin.step()
            except ValueError:  # OneCycleLR at its end
                break
            rates.append([float(group["lr"]) for group in stand_in.param_groups])
    return rates
