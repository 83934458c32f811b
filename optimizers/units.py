"""Units, the parts of a model with a step size of their own: dividing, remembering, taking turns, merging."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from optimizers.group_update import GroupUpdate
from optimizers.searches import SearchResult
from optimizers.step_contract import UnitReport

UpdateRule = Literal["joint", "cycle", "all", "impact"]


@dataclass
class UnitMemory:
    """What a unit remembers between steps; stored in each of its param groups, by the names of the fields."""

    searches: int = 0  # searches that found a step size
    failures: int = 0  # searches that found none
    trials: int = 0  # evaluations in all of these searches
    backtracks: int = 0  # rejected ones among them
    failures_in_a_row: int = 0  # since the last search that found one
    skipped: int = 0  # steps left out because the loss, a gradient or every trial was not finite
    steps_since_search: int = 0
    settled: bool = False  # whether the step size in force was found by a search
    slope: float = 0.0  # at the last search
    average_slope: float = 0.0  # exponential average over searches, from a start at zero
    average_decrease: float = 0.0  # the same of the decrease of the loss


_MEMORY = tuple(entry.name for entry in fields(UnitMemory))


@dataclass(eq=False)
class Unit:
    """The param groups that share a step size.

    Args:
        name: The groups' `unit`, or `name`; None where the unit is the whole model.
        groups: The param groups, in order. What the unit remembers is the same in all of them; the first is read.
        updates: The updates of those groups that have something to move in the present step.
    """

    name: str | None
    groups: list[dict[str, Any]]
    updates: list[GroupUpdate] = field(default_factory=list)

    def __post_init__(self) -> None:
        group = self.groups[0]
        self.memory = UnitMemory(**{name: group[name] for name in _MEMORY})

    @property
    def options(self) -> dict[str, Any]:
        """The options of the unit: its first group, which also holds what it remembers."""
        return self.groups[0]

    @property
    def step_size(self) -> float:
        """The step size in force."""
        return self.groups[0]["lr"]

    def store(self, step_size: float) -> None:
        """Write the memory and the step size to all groups."""
        for group in self.groups:
            group.update(vars(self.memory), lr=step_size)

    @property
    def weight_of_past(self) -> float:
        """The weight of the past in the averages over searches: the search's `smoothing`; 0.9 where it has none."""
        return self.options.get("smoothing") or 0.9

    def remember_search(self, result: SearchResult, slope: float, decrease: float) -> None:
        """Update the memory, and store the step size, after a search that found one.

        Args:
            result: What the search found.
            slope: The part of the line's slope that this unit has.
            decrease: The part of the decrease of the loss that is put down to this unit.
        """
        memory, past = self.memory, self.weight_of_past
        memory.searches += 1
        memory.failures_in_a_row = 0
        memory.trials += result.trials
        memory.backtracks += result.backtracks
        memory.steps_since_search = 0
        memory.settled = True
        memory.slope = slope
        memory.average_slope = past * memory.average_slope + (1 - past) * slope
        memory.average_decrease = past * memory.average_decrease + (1 - past) * decrease
        self.store(result.step_size)

    def remember_failure(self, result: SearchResult) -> None:
        """Update the memory after a failed search: keep the step size if inconclusive, else the smallest tried."""
        memory, step_size = self.memory, self.step_size
        if result.failure == "not finite" or not math.isfinite(result.loss_before):
            memory.skipped += 1
        else:
            memory.failures += 1
            memory.failures_in_a_row += 1
            for update in self.updates:
                update.reset_momentum()
        memory.trials += result.trials
        memory.backtracks += result.backtracks
        memory.steps_since_search = 0
        memory.settled = memory.settled and result.step_size >= step_size
        self.store(min(step_size, result.step_size))

    def report(self, search_interval: float | None) -> UnitReport:
        """Return the state of the unit's search, for monitors."""
        memory = self.memory
        return UnitReport(
            step_size=self.step_size,
            slope=memory.slope,
            smoothed_slope=memory.average_slope,
            smoothed_decrease=memory.average_decrease,
            searches=memory.searches,
            failures=memory.failures,
            trials=memory.trials,
            backtracks=memory.backtracks,
            skipped=memory.skipped,
            search_interval=search_interval,
        )


def unit_name(group: dict[str, Any], place: int) -> str:
    """Return what a group's unit is called: by its `unit`, which may be a number, its `name`, or its place."""
    named = (group.get(key) for key in ("unit", "name"))
    return next((str(name) for name in named if name not in (None, "")), f"group {place}")


def divide(groups: Sequence[dict[str, Any]], rule: UpdateRule) -> list[Unit]:
    """Return the units of some param groups, in the order of their first groups.

    Groups with the same `unit` (or, without one, the same `name`) are a unit; under the rule "joint" all groups are one
    without a name.
    """
    units: dict[str | None, list[dict[str, Any]]] = {}
    for index, group in enumerate(groups):
        name = None if rule == "joint" else unit_name(group, index)
        units.setdefault(name, []).append(group)
    return [Unit(name, members) for name, members in units.items()]


def search_jointly(units: Sequence[Unit], joint_steps: int) -> bool:
    """Return whether all units still search together: none of them has searched so many times."""
    searches = [unit.memory.searches + unit.memory.failures for unit in units]
    return len(units) > 1 and all(count < joint_steps for count in searches)


def next_to_search(due: Sequence[Unit], rule: UpdateRule, num_units: int) -> list[Unit]:
    """Return which of the units that are due search in the present step: all of them, or the most urgent one.

    Args:
        due: The units that are due.
        rule: Under "all", all of them search; otherwise the one that has no step size yet, or else waited longest,
            under "impact" weighted by its average slope, corrected for its start at zero.
        num_units: How many units there are.
    """
    if rule == "all" or not due:
        return list(due)
    return [max(due, key=lambda unit: _urgency(unit, rule, num_units))]


def _urgency(unit: Unit, rule: UpdateRule, num_units: int) -> tuple[bool, float]:
    waited = float(unit.memory.steps_since_search)
    if not unit.memory.searches:
        # A unit whose searches have all failed comes first no more often than in turn.
        return not unit.memory.failures or waited >= num_units, waited
    if rule != "impact":
        return False, waited
    return False, waited * unit.memory.average_slope / (1 - unit.weight_of_past**unit.memory.searches)


def merge(unit: Unit, units: list[Unit], cadence_memory: Iterable[str]) -> None:
    """Let a unit join its neighbour in the list: one step size, one search, the sums of their averages.

    Args:
        unit: The unit that joins.
        units: All units.
        cadence_memory: The names of what the cadence remembers: of the step size in force, which is the neighbour's.
    """
    if len(units) == 1:
        return
    place = units.index(unit)
    neighbour = units[place - 1 if place else 1]
    units.remove(unit)
    for group in unit.groups:
        group.update({name: neighbour.options[name] for name in cadence_memory}, unit=neighbour.name)
    neighbour.groups = neighbour.groups + unit.groups
    neighbour.updates = neighbour.updates + unit.updates
    neighbour.memory.average_slope += unit.memory.average_slope
    neighbour.memory.average_decrease += unit.memory.average_decrease
    neighbour.store(neighbour.step_size)
