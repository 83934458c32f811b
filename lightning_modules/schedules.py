"""Learning-rate schedules over a run: warm-up, then constant, linear or cosine; triangular cycles."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

from torch.optim import Optimizer
from torch.optim.lr_scheduler import CyclicLR, LambdaLR, LRScheduler, ReduceLROnPlateau

from lightning_modules.errors import ModelError
from lightning_modules.steps.factories import unset_keywords
from lightning_modules.trainer.run_length import HOW_TO_LIMIT, RunLength
from optimizers.checks import require, require_integer
from optimizers.warmup_and_decay import warmup_and_decay

ScheduleCallable = Callable[[Optimizer], LRScheduler | ReduceLROnPlateau]
# What schedules call the number of times that they advance.
_LENGTHS = ("total_steps", "num_training_steps", "T_max", "total_iters")


@dataclass(frozen=True)
class Schedule:
    """A learning-rate schedule and when it advances, as Lightning's ``configure_optimizers`` has them.

    Args:
        scheduler: Makes the schedule from the optimizer. An argument ``total_steps``, ``num_training_steps``, ``T_max``
            or ``total_iters`` that is null is filled in with the run's number of optimizer steps, or of epochs if the
            schedule advances per epoch; where it has no default (CosineAnnealingLR's ``T_max``) only from Python, by
            leaving it out.
        interval: Whether the schedule advances per optimizer ``step`` or per ``epoch``. ReduceLROnPlateau always
            advances per epoch; unless it watches a ``train/`` metric, in those epochs alone that validate.
        monitor: What ReduceLROnPlateau watches: the name of a logged metric.

    Raises:
        ModelError: if ``interval`` is another word.

    Example::

        Schedule(partial(LinearWithWarmup, warmup_ratio=0.06))
    """

    renamed_arguments: ClassVar[dict[str, str]] = {"class_path": "now model.lr_scheduler.scheduler takes the class"}

    scheduler: ScheduleCallable
    interval: Literal["step", "epoch"] = "step"
    monitor: str = "val/loss"

    def __post_init__(self) -> None:
        if self.interval not in ("step", "epoch"):
            raise ModelError(f"lr_scheduler.interval: {self.interval!r} is not allowed; step or epoch")

    def build(self, optimizer: Optimizer, length: RunLength) -> LRScheduler | ReduceLROnPlateau:
        """Make the schedule for a run.

        Args:
            optimizer: The optimizer to schedule.
            length: The run's length.

        Raises:
            ModelError: if the schedule refuses its arguments, needs a length that is unknown, or sets one rate for
                groups that have different ones.
        """
        advances = length.epochs if self.interval == "epoch" else length.total_steps
        offered = {"steps_per_epoch": length.steps_per_epoch, **dict.fromkeys(_LENGTHS, advances)}
        unset = unset_keywords(self.scheduler, offered)
        # Schedules with total_steps may do without, and refuse None themselves; the other names need a number.
        unknown = [name for name in _LENGTHS if name in unset and unset[name] is None]
        run = f"the run's number of {self.interval}s, which is unknown here"
        how = "max_epochs" if self.interval == "epoch" else HOW_TO_LIMIT
        hint = f"is {run}; give it, or give the trainer {how}"
        if unknown not in ([], ["total_steps"]):
            raise ModelError(f"lr_scheduler: {unknown[0]} {hint}")
        differ = _differ([group["lr"] for group in optimizer.param_groups])
        try:
            schedule = self.scheduler(optimizer, **unset)
        except (TypeError, ValueError) as error:
            is_told = not unknown or str(error).startswith("total_steps:")
            raise ModelError(f"lr_scheduler: {error}{'' if is_told else f' (total_steps {hint})'}") from error
        # A warm-up begins at 0 for all; what it rises to is initial_lr, in cycles (CyclicLR) max_lrs.
        kinds = [[group.get(name) for group in optimizer.param_groups] for name in ("lr", "initial_lr")]
        if differ and not any(map(_differ, [*kinds, getattr(schedule, "max_lrs", ())])):
            raise ModelError(
                f"lr_scheduler: {type(schedule).__name__} gives all parameters one learning rate in place of those by "
                "part; choose a schedule that begins from the optimizer's, such as Triangular, or leave these out"
            )
        return schedule

    def rebuild(
        self, optimizer: Optimizer, length: RunLength, rates: Sequence[float], advances: int
    ) -> LRScheduler | ReduceLROnPlateau:
        """Make the schedule of a resumed run whose length is another than that of the run that was saved.

        torch restores a schedule with the numbers that it was made with, the old run's length among them.

        Args:
            optimizer: The optimizer to schedule, with the learning rates of the run that was saved.
            length: The length of the resumed run.
            rates: The learning rates of the groups without a schedule.
            advances: How many times the schedule has advanced.
        """
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group.pop("initial_lr", None)
            group["lr"] = rate
        schedule = self.build(optimizer, length)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch expects a step of the optimizer before each
            for _ in range(advances):
                schedule.step()
        return schedule


class ConstantWithWarmup(LambdaLR):
    """Rises linearly from 0 to the optimizer's learning rate, then stays there.

    Args:
        optimizer: The optimizer; each of its groups is scheduled from its own rate.
        warmup_ratio: Warm-up as a share of the run, 0 to 1.
        warmup_steps: Warm-up in optimizer steps, in place of ``warmup_ratio``.
        total_steps: Optimizer steps of the run. Default: filled in by the module that trains.

    Raises:
        ValueError: if a setting is out of range or the run's length is not known.

    Example::

        schedule = ConstantWithWarmup(optimizer, warmup_ratio=0.06, total_steps=1000)
    """

    def __init__(
        self,
        optimizer: Optimizer,
        warmup_ratio: float = 0.1,
        warmup_steps: int | None = None,
        total_steps: int | None = None,
    ) -> None:
        warmup = _warmup_steps(type(self).__name__, warmup_ratio, warmup_steps, total_steps)
        super().__init__(optimizer, partial(warmup_and_decay, warmup=warmup, shape="constant"))


class LinearWithWarmup(LambdaLR):
    """Rises linearly from 0 to the optimizer's learning rate, then falls linearly to 0 at the end of the run.

    The schedule of BERT's fine-tuning (arXiv 1810.04805) with a warm-up of a tenth.

    Args:
        optimizer: The optimizer; each of its groups is scheduled from its own rate.
        warmup_ratio: Warm-up as a share of the run, 0 to 1.
        warmup_steps: Warm-up in optimizer steps, in place of ``warmup_ratio``.
        total_steps: Optimizer steps of the run. Default: filled in by the module that trains.

    Raises:
        ValueError: if a setting is out of range or the run's length is not known.

    Example::

        schedule = LinearWithWarmup(optimizer, warmup_steps=100, total_steps=1000)
    """

    def __init__(
        self,
        optimizer: Optimizer,
        warmup_ratio: float = 0.1,
        warmup_steps: int | None = None,
        total_steps: int | None = None,
    ) -> None:
        warmup = _warmup_steps(type(self).__name__, warmup_ratio, warmup_steps, total_steps)
        total = _checked_total(type(self).__name__, total_steps)
        super().__init__(optimizer, partial(warmup_and_decay, total=total, warmup=warmup))


class CosineWithWarmup(LambdaLR):
    """Rises linearly from 0 to the optimizer's learning rate, then falls along a cosine.

    Args:
        optimizer: The optimizer; each of its groups is scheduled from its own rate.
        warmup_ratio: Warm-up as a share of the run, 0 to 1.
        warmup_steps: Warm-up in optimizer steps, in place of ``warmup_ratio``.
        num_cycles: Waves of the cosine after the warm-up; 0.5 falls once, from the full rate to 0.
        total_steps: Optimizer steps of the run. Default: filled in by the module that trains.

    Raises:
        ValueError: if a setting is out of range or the run's length is not known.

    Example::

        schedule = CosineWithWarmup(optimizer, warmup_ratio=0.1, total_steps=1000)
    """

    def __init__(
        self,
        optimizer: Optimizer,
        warmup_ratio: float = 0.1,
        warmup_steps: int | None = None,
        num_cycles: float = 0.5,
        total_steps: int | None = None,
    ) -> None:
        warmup = _warmup_steps(type(self).__name__, warmup_ratio, warmup_steps, total_steps)
        total = _checked_total(type(self).__name__, total_steps)
        require(num_cycles > 0, "num_cycles", num_cycles, "above 0")
        factor = partial(warmup_and_decay, total=total, warmup=warmup, shape="cosine", num_cycles=num_cycles)
        super().__init__(optimizer, factor)


class Triangular(CyclicLR):
    """Rises linearly to the optimizer's learning rate and falls back, again and again, in cycles that fill the run.

    Torch's :class:`~torch.optim.lr_scheduler.CyclicLR` ("Cyclical Learning Rates for Training Neural Networks", arXiv
    1506.01186) with the cycle's length taken from the run's and each group's own rate as the peak.

    Args:
        optimizer: The optimizer; each of its groups is scheduled up to its own rate.
        num_cycles: Cycles in the run.
        rise: Share of a cycle that rises, above 0 and below 1. 0.1 and one cycle are the slanted triangle of ULMFiT
            (arXiv 1801.06146).
        lowest: Where a cycle starts and ends, as a factor on the peak, 0 to 1.
        decay: What the peaks do: ``none``, or ``halve`` from one cycle to the next.
        total_steps: Optimizer steps of the run. Default: filled in by the module that trains.

    Raises:
        ValueError: if a setting is out of range or the run's length is not known.

    Example::

        schedule = Triangular(optimizer, num_cycles=2, total_steps=1000)
    """

    def __init__(
        self,
        optimizer: Optimizer,
        num_cycles: float = 1.0,
        rise: float = 0.5,
        lowest: float = 0.0,
        decay: Literal["none", "halve"] = "none",
        total_steps: int | None = None,
    ) -> None:
        total = _checked_total(type(self).__name__, total_steps)
        require(num_cycles > 0, "num_cycles", num_cycles, "above 0")
        require(0 < rise < 1, "rise", rise, "above 0 and below 1")
        require(0 <= lowest <= 1, "lowest", lowest, "0 to 1")
        require(decay in ("none", "halve"), "decay", decay, "none or halve")
        cycle = total / num_cycles
        peaks = [group["lr"] for group in optimizer.param_groups]
        super().__init__(
            optimizer,
            base_lr=[lowest * peak for peak in peaks],
            max_lr=peaks,
            step_size_up=cycle * rise,  # type: ignore[arg-type]  # torch makes a float of it
            step_size_down=cycle * (1 - rise),  # type: ignore[arg-type]
            mode="triangular2" if decay == "halve" else "triangular",
            cycle_momentum=False,
        )


def _differ(rates: Sequence[Any]) -> bool:
    return len({float(rate) for rate in rates if rate is not None}) > 1


def _checked_total(schedule: str, total_steps: int | None) -> int:
    if total_steps is None or total_steps == math.inf:
        raise ValueError(
            f"total_steps: {total_steps} is not allowed; {schedule} needs the number of optimizer steps of the run, "
            f"1 or more: give the trainer {HOW_TO_LIMIT}"
        )
    require_integer("total_steps", total_steps, 1)
    return total_steps


def _warmup_steps(schedule: str, ratio: float, steps: int | None, total_steps: int | None) -> int:
    if steps is not None:
        require_integer("warmup_steps", steps, 0)
        return steps
    require(0 <= ratio <= 1, "warmup_ratio", ratio, "0 to 1")
    return math.ceil(ratio * _checked_total(schedule, total_steps))
