"""Definition of a study: its grid of runs, their length, and the options of its report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Budget:
    """Length of a run: exactly one of optimizer steps, epochs, or seconds of training."""

    steps: int | None = None
    epochs: int | None = None
    seconds: float | None = None

    def __str__(self) -> str:
        if self.seconds is not None:
            return f"{self.seconds:g} s of training"
        count, unit = (self.steps, "step") if self.steps is not None else (self.epochs, "epoch")
        return f"{count} {unit}{'' if count == 1 else 's'}"


@dataclass(frozen=True)
class Level:
    """One value of an axis: a label, and the configs and settings that it adds to a run."""

    label: str
    configs: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    metric: str | None = None
    budget: Budget | None = None
    axes: tuple[Axis, ...] = ()


@dataclass(frozen=True)
class Axis:
    """Axis of the grid: a name and its levels, in the order of the file."""

    name: str
    levels: tuple[Level, ...]


@dataclass(frozen=True)
class RegretOptions:
    """Options of the section about regret.

    Args:
        settings: The axis of the settings that regrets are averaged over.
        grid: The label of the level whose nested levels are the learning rates that a method is compared with.
        chose_constants: Labels of settings that constants of a method were chosen on, which judge nothing.
    """

    settings: str
    grid: str
    chose_constants: tuple[str, ...] = ()


@dataclass(frozen=True)
class ReportOptions:
    """Options of the report.

    Args:
        tables_by: The axis with one table per level.
        primary: Which validation of a run is compared: ``final`` or ``best``.
        stability: Whether to show the distribution over seeds and the number of runs not above the baseline.
        tune_over: The axis of a hyperparameter whose tries are counted in the cost of a score.
        regret: Options of the section about regret, for a study that has one.
    """

    tables_by: str | None = None
    primary: str = "final"
    stability: bool = False
    tune_over: str | None = None
    regret: RegretOptions | None = None


@dataclass(frozen=True)
class Published:
    """Published numbers that the report shows beside ours: the source, what was measured, and one row per value."""

    source: str
    measure: str
    note: str
    ours: str
    rows: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class Study:
    """Checked study: the grid of runs, their length and seeds, and the options of the report."""

    name: str
    path: Path
    title: str
    description: str
    configs: tuple[str, ...]
    settings: Mapping[str, Any]
    axes: tuple[Axis, ...]
    seeds: tuple[int, ...]
    budget: Budget
    metric: str
    report: ReportOptions
    published: tuple[Published, ...]
    timeout_minutes: float | None
    expected_seconds: float | None

    def axis_names(self) -> list[str]:
        """Return the names of all axes, nested ones after the axis that holds them."""
        return list(labels_by_axis(self.axes))


def labels_by_axis(axes: Sequence[Axis]) -> dict[str, list[str]]:
    """Return the labels of all levels by the name of their axis, nested axes after the one that holds them."""
    found: dict[str, list[str]] = {}
    for axis in axes:
        for level in axis.levels:
            found[axis.name] = list(dict.fromkeys([*found.get(axis.name, []), level.label]))
            for name, labels in labels_by_axis(level.axes).items():
                found[name] = list(dict.fromkeys([*found.get(name, []), *labels]))
    return found


def label_of(value: Any) -> str:
    """Return a value as tables show it: numbers in their shortest form, everything else unchanged."""
    if isinstance(value, bool) or value is None:
        return "null" if value is None else str(value).lower()
    if isinstance(value, float):
        digits, exponent = f"{value:.5e}".split("e")
        scientific = f"{float(digits):g}e{int(exponent)}"
        return min(f"{value:g}", scientific, key=len)
    return str(value)
