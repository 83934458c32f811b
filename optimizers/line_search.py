"""Line search optimizers: a direction, a search for the step size along it, and a rule for when to search."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from optimizers.anchored_optimizer import AnchoredOptimizer
from optimizers.cadence import Cadence
from optimizers.checks import require, require_integer, require_one_of
from optimizers.directions import DirectionFunction
from optimizers.failed_searches import MANY_FAILURES, warn_of_failures
from optimizers.group_update import GroupUpdate
from optimizers.line import Line
from optimizers.options import Reset, in_force, with_options
from optimizers.searches import Past, Search, SearchResult
from optimizers.set_step_sizes import finds_step_sizes
from optimizers.step_contract import Closure, Evaluate, StepRecord, UnitReport
from optimizers.step_start import start_step
from optimizers.units import Unit, UnitMemory, UpdateRule, divide, merge, next_to_search, search_jointly
from optimizers.unread_record import UnreadRecord, unread_record

Condition = Literal["gradient", "momentum"]

# What pickling and copying keep beside torch's own attributes.
_OWN_ATTRIBUTES = (
    *("direction", "search", "cadence", "growth_per", "steps_per_epoch", "condition", "reset"),
    *("update_rule", "joint_steps", "merge_threshold", "_last"),
)
# How many steps make an epoch unless the run's number is given: the step size may double within 20 steps.
_STEPS_PER_EPOCH = 20


class LineSearchOptimizer(AnchoredOptimizer):
    r"""Descent along a direction, by a step size :math:`\eta` that a search finds on the batch at hand.

    .. math:: x_{k+1} = x_k - \eta_k d_k - \eta_k \lambda x_k

    `direction` computes :math:`d_k`, `search` finds :math:`\eta_k`, `cadence` says in which steps; in the others
    :math:`\eta_k = \eta_{k-1}`. A failed search leaves the parameters as they were.

    A unit is what has one step size, by `update_rule`: the whole model, or the param groups that share a `unit` (or,
    without one, a `name`). The step size in force is the `lr` of a unit's groups. They hold what the unit remembers,
    beside the fields of `search` and `cadence` and the direction's options, which may differ from group to group.
    `docs/line_searches.md` explains the family.

    Args:
        params: Parameters, or groups of them (dicts with `params` and optionally `name`, `unit`, and any option).
        direction: A function of `optimizers.directions`, or one of your own.
        search: An `ArmijoSearch`, or one of your own (`optimizers.searches.Search`).
        cadence: `EveryStep()`, `Drift()`, `Ratio()`, or one of your own (`optimizers.cadence.Cadence`).
        initial_step_size: Where the first search starts; too high only costs trials.
        growth: By how much the step size may grow, at least 1, before the search starts (`reset="grow"`).
        growth_per: Whether it grows so in an "epoch" or from one "search" to the next.
        steps_per_epoch: The number of optimizer steps that make an epoch. None: 20.
        weight_decay: :math:`\lambda`, decoupled as in AdamW.
        heavy_ball: The share of the last step that is added to the next, below 1.
        condition: Whether trials leave the direction's momentum out ("gradient") or follow the step ("momentum").
        direction_options: What the direction reads from its group, such as `betas`.
        reset, update_rule, joint_steps, merge_threshold: See `CommonOptions`.
        search_options: Fields of `search` by name, in place of its own.

    Raises:
        TypeError: `search` has no option of such a name.
        ValueError: An argument is out of its range; a step gets neither `closure` nor `evaluate`; gradients are sparse.
    """

    sets_step_size = True
    measures_slope = True
    checks_finite = True

    def __init__(
        self,
        params: ParamsT,
        direction: DirectionFunction,
        search: Search,
        cadence: Cadence,
        *,
        initial_step_size: float,
        growth: float,
        growth_per: Literal["epoch", "search"] = "epoch",
        steps_per_epoch: int | None = None,
        weight_decay: float = 0.0,
        heavy_ball: float = 0.0,
        condition: Condition = "momentum",
        direction_options: Mapping[str, Any] | None = None,
        reset: Reset = "grow",
        update_rule: UpdateRule = "joint",
        joint_steps: int = 5,
        merge_threshold: float | None = None,
        **search_options: Any,
    ) -> None:
        search = with_options(search, search_options)
        require_integer("steps_per_epoch", steps_per_epoch, 1, or_none=True)
        require_integer("joint_steps", joint_steps, 0)
        require(merge_threshold is None or merge_threshold > 0, "merge_threshold", merge_threshold, "above 0, or None")
        require_one_of("growth_per", growth_per, ("epoch", "search"))
        require_one_of("condition", condition, get_args(Condition))
        require_one_of("reset", reset, get_args(Reset))
        require_one_of("update_rule", update_rule, get_args(UpdateRule))
        self.direction = direction
        self.search = search
        self.cadence = cadence
        self.growth_per = growth_per
        self.steps_per_epoch = steps_per_epoch
        self.condition = condition
        self.reset = reset
        self.update_rule = update_rule
        self.joint_steps = joint_steps
        self.merge_threshold = merge_threshold
        self._last: UnreadRecord | None = None
        self._has_warned = False
        defaults: dict[str, Any] = {
            "lr": initial_step_size,
            "lr_factor": 1.0,
            "anchor_decay": 0.0,
            "anchor_device": "parameter",
            "initial_step_size": initial_step_size,
            "growth": growth,
            "weight_decay": weight_decay,
            "heavy_ball": heavy_ball,
            **vars(UnitMemory()),
        }
        for part in (vars(search), vars(cadence), direction_options or {}, cadence.memory()):
            both = sorted(set(part) & set(defaults))
            require(not both, "an option of search, cadence or direction", both, "named unlike the others")
            defaults.update(part)
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; with `anchor_decay`, the present values of its pretrained parameters become their anchors."""
        _check_options({**self.defaults, **param_group})
        super().add_param_group(param_group)

    def check_state(self, state_dict: dict[str, Any]) -> None:
        """Raise a ValueError for a state that cannot be loaded: it lacks step sizes, counters or anchors."""
        for name in ("lr", *vars(UnitMemory())):
            if any(name not in group for group in state_dict["param_groups"]):
                raise ValueError(f"the state to load is not whole: its groups lack {name}")
        super().check_state(state_dict)

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {name: self.__dict__[name] for name in _OWN_ATTRIBUTES}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._has_warned = False
        for group in self.param_groups:  # a state saved before an option existed
            for name, value in self.defaults.items():
                group.setdefault(name, value)

    @property
    def last_step(self) -> StepRecord | None:
        """What the last step did; None before the first one. Reading it waits for the device."""
        return None if self._last is None else self._last.read()

    def units(self) -> list[Unit]:
        """Return the units, in the order of their first groups; under the rule "joint" a single one without a name."""
        return divide(self.param_groups, self.update_rule)

    def unit_reports(self) -> dict[str, UnitReport]:
        """Return the state of each unit's search, by the unit's name; "model" under the rule "joint"."""
        return {unit.name or "model": unit.report(self._interval(unit)) for unit in self.units()}

    @finds_step_sizes
    @torch.no_grad()
    def step(
        self, closure: Closure | None = None, *, evaluate: Evaluate | None = None, loss: Tensor | float | None = None
    ) -> Any:
        """Make one step.

        Args:
            closure: Clears the gradients, computes the loss, runs backward and returns the loss; called once. None
                where the gradients are in `.grad` already.
            evaluate: Computes the loss alone, with the same batch and random numbers, at whatever the parameters are
                now; called once per trial. None: `closure` is called for the trials too, with the random numbers of
                its first call.
            loss: The loss that the gradients belong to, where there is no closure. None: `evaluate` computes it.

        Returns:
            The loss at the start of the step.
        """
        start = start_step(self, self.direction, closure, evaluate, loss)
        if start is None:
            return None
        finite = start.finite_loss
        for group in self.param_groups:
            group["steps_since_search"] += 1
            group["skipped"] += finite is None
        if finite is None or not start.updates:
            self._last = unread_record(start.loss, self.param_groups[0]["lr"], accepted=finite is not None)
        else:
            self._move(self._units_with(start.updates), start.evaluate, finite)
        return start.returned

    def _units_with(self, updates: list[GroupUpdate]) -> list[Unit]:
        """Return the units with something to move."""
        units = self.units()
        owner = {id(group): unit for unit in units for group in unit.groups}
        for update in updates:
            owner[id(update.group)].updates.append(update)
        return [unit for unit in units if unit.updates]

    def _move(self, units: list[Unit], evaluate: Evaluate, loss: Tensor | float) -> None:
        """Search for the step sizes that are due, and move everything."""
        joint = search_jointly(units, self.joint_steps)
        if joint:
            searching = units
        else:
            searching = next_to_search([unit for unit in units if self._is_due(unit)], self.update_rule, len(units))
        if joint or len(searching) == 1:
            results = self._search_together(searching, evaluate, loss)
        else:
            results = self._search_each(searching, evaluate, loss)
        for unit in units:
            if unit not in searching:
                self._move_without_search(unit)
        if results:
            self._note(results, searching)
        else:
            self._last = unread_record(loss, units[0].step_size)
        failed = [unit for unit in searching if unit.memory.failures_in_a_row >= MANY_FAILURES]
        if failed and not self._has_warned:
            self._has_warned = True
            warn_of_failures(type(self).__name__, failed[0].name)
        if self.merge_threshold is not None and not joint:
            for unit in searching:
                if unit.step_size < self.merge_threshold:
                    merge(unit, units, self.cadence.memory())

    def _move_without_search(self, unit: Unit) -> None:
        """Move a unit by the step size in force; one that never had any waits for its first search."""
        for update in unit.updates:
            if unit.memory.searches:
                update.step_without_search(unit.step_size)
            else:
                update.compute_direction()

    def _interval(self, unit: Unit) -> float | None:
        """Return how many steps may pass from one search of the unit to the next; None: every step may search."""
        return in_force(self.cadence, unit.options).interval(unit.options)

    def _is_due(self, unit: Unit) -> bool:
        interval = self._interval(unit)
        # Without a step size that a search found nothing moves.
        return not unit.memory.searches or interval is None or unit.memory.steps_since_search >= interval

    def _start_of(self, unit: Unit) -> float:
        """Return the step size that a search of the unit starts from, by the reset rule."""
        if self.reset == "restart":
            return float(unit.options["initial_step_size"])
        if not unit.memory.searches:
            return float(max(group["lr"] for group in unit.groups))
        if self.reset == "keep" or not unit.memory.settled:
            return float(unit.step_size)
        epochs = unit.memory.steps_since_search / (self.steps_per_epoch or _STEPS_PER_EPOCH)
        return float(unit.step_size * unit.options["growth"] ** (1.0 if self.growth_per == "search" else epochs))

    def _search_together(self, units: list[Unit], evaluate: Evaluate, loss: Tensor | float) -> list[SearchResult]:
        """Search for one step size for all these units, and move them."""
        line, result = self._search(units, [1.0] * len(units), evaluate, loss, self._start_of(units[0]))
        if not result.accepted:
            for unit in units:
                unit.remember_failure(result)
            return [result]
        line.take(result.step_size)
        slopes = iter(result.slopes)
        for unit in units:
            slope = math.fsum(next(slopes) for _ in unit.updates)
            # What a joint step gained is credited to its units in proportion to their slopes.
            self._remember(unit, result, slope, slope / result.slope if result.slope > 0 else 1 / len(units))
        return [result]

    def _search_each(self, units: list[Unit], evaluate: Evaluate, loss: Tensor | float) -> list[SearchResult]:
        """Search for a step size for each of these units alone, from where they are; then for one factor for all.

        The last of the results is that of the step as a whole.
        """
        results, found = [], []
        for unit in units:
            line, result = self._search([unit], [1.0], evaluate, loss, self._start_of(unit))
            results.append(result)
            if result.accepted:
                line.move_to(0.0)
                found.append((unit, result))
            else:
                unit.remember_failure(result)
        if not found:
            return results
        moving, first = [unit for unit, _ in found], found[0][1]
        # As multiples of the first one's, which the bounds of the search are about.
        factors = [result.step_size / first.step_size for _, result in found]
        if len(found) > 1:
            line, together = self._search(moving, factors, evaluate, loss, first.step_size)
        else:
            line, together = self._line(moving, factors), replace(first, trials=0, backtracks=0)
        if not together.accepted:
            for unit, result in found:
                # Nothing was found to be too far for a unit alone: it keeps the step size in force.
                unit.remember_failure(replace(result, step_size=math.inf, failure=together.failure))
            return [*results, together]
        line.take(together.step_size)
        for (unit, result), factor in zip(found, factors, strict=True):
            its_own = replace(result, step_size=together.step_size * factor)
            self._remember(unit, its_own, math.fsum(result.slopes), 1.0)
        return [*results, together]

    def _line(self, units: Sequence[Unit], factors: Sequence[float]) -> Line:
        """Return the line along which each of these units moves by its factor times the step size."""
        pairs = [(update, factor) for unit, factor in zip(units, factors, strict=True) for update in unit.updates]
        return Line(pairs, without_momentum=self.condition == "gradient")

    def _search(
        self, units: Sequence[Unit], factors: Sequence[float], evaluate: Evaluate, loss: Tensor | float, start: float
    ) -> tuple[Line, SearchResult]:
        """Search along the line of these units, with the options of the first of them."""
        line = self._line(units, factors)
        past = Past(
            settled=all(unit.memory.settled for unit in units),
            decrease=math.fsum(unit.memory.average_decrease for unit in units),
            slope=math.fsum(f * unit.memory.average_slope for f, unit in zip(factors, units, strict=True)),
        )
        return line, line.search(in_force(self.search, units[0].options), evaluate, loss, start, past)

    def _remember(self, unit: Unit, result: SearchResult, slope: float, share: float) -> None:
        """Update what a unit and its cadence remember, after a search that found a step size."""
        waited = unit.memory.steps_since_search
        unit.remember_search(result, slope, (result.loss_before - result.loss) * share)
        remembered = in_force(self.cadence, unit.options).after_search(unit.options, waited)
        for group in unit.groups:
            group.update(remembered)

    def _note(self, results: list[SearchResult], searched: list[Unit]) -> None:
        last = results[-1]
        self._last = unread_record(
            results[0].loss_before,
            searched[0].step_size,
            loss_after=last.loss,
            evaluations=sum(result.trials for result in results),
            backtracks=sum(result.backtracks for result in results),
            slope=math.fsum(result.slope for result in results[: len(searched)]),
            accepted=last.accepted,
            group=searched[0].name if len(searched) == 1 else None,
        )


def _check_options(group: Mapping[str, Any]) -> None:
    """Raise a ValueError for an option of a param group that is out of its range."""
    start, low, high = group["initial_step_size"], group.get("min_step_size", 0.0), group.get("max_step_size", math.inf)
    require(start > 0, "initial_step_size", start, "greater than 0")
    bounds = f"bounds around initial_step_size = {start}"
    require(low <= start <= high, "min_step_size and max_step_size", (low, high), bounds)
    require(group["lr"] > 0, "lr", group["lr"], "greater than 0; a group that is to stay has lr_factor 0")
    for name in ("lr_factor", "weight_decay", "anchor_decay"):
        require(group[name] >= 0, name, group[name], "at least 0")
    require(group["growth"] >= 1, "growth", group["growth"], "at least 1")
    require(0 <= group["heavy_ball"] < 1, "heavy_ball", group["heavy_ball"], "at least 0 and less than 1")
