# mypy: ignore-errors
"""The base of ParabolicAdam alone, for the time being."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from optimizers.anchored_decay import keep_anchors, place_anchors, require_anchors
from optimizers.directions import DirectionFunction
from optimizers.group_update import GroupUpdate
from optimizers.line_search import LineSearchOptimizer
from optimizers.scalars import gather
from optimizers.searches import SearchResult
from optimizers.step_contract import Closure, Evaluate, StepRecord, as_loss, open_step

UpdateRule = Literal["joint", "cycle", "all", "impact"]
Reset = Literal["keep", "grow", "restart"]
Condition = Literal["gradient", "momentum"]
Momentum = Literal["standard", "heavy_ball"]

# What a unit remembers between steps. It lives in the param groups, the same in every group of a unit.
_MEMORY: dict[str, Any] = {
    "searches": 0,  # searches that found a step size
    "failures": 0,  # searches that found none
    "trials": 0,  # evaluations in all of these searches
    "backtracks": 0,  # rejected ones among them
    "skipped": 0,  # steps left out because loss or gradient was not finite
    "steps_since_search": 0,
    "settled": False,  # whether the step size in force was found by a search
    "slope": 0.0,  # at the last search
    "average_slope": 0.0,
    "average_decrease": 0.0,
}
_NOTHING_SEARCHED: dict[str, Any] = {
    "loss_after": math.nan,
    "evaluations": 0,
    "backtracks": 0,
    "slope": math.nan,
    "accepted": True,
}
# How many times a search that starts from a step size found earlier backtracks by `shrink` before it brackets.
PATIENCE = 3
# How many steps make an epoch where nobody says so: the step size may double within 20 steps.
DEFAULT_STEPS_PER_EPOCH = 20


class ParabolicLineSearch(LineSearchOptimizer):
    """Base class: moves parameters along a direction, by a step size that a line search finds.

    A subclass passes its `direction` (a function of `optimizers.directions`, or one of your own) and its defaults; one
    that searches only now and then overrides `is_due`. See `AdamSLS`, `SGDSLS` and `SaLSA` for the arguments.

    A **unit** is what has one step size: the whole model under the update rule "joint", otherwise the groups that share
    a `unit` (or, without one, a `name`). The step size in force is the `lr` of a unit's groups.
    """

    def __init__(
        self,
        params: ParamsT,
        direction: DirectionFunction,
        *,
        initial_step_size: float,
        c: float,
        shrink: float,
        growth: float,
        weight_decay: float = 0.0,
        smoothing: float = 0.0,
        heavy_ball: float = 0.0,
        bracket: float | None = 0.2,
        max_trials: int = 30,
        min_step_size: float = 1e-10,
        max_step_size: float = 10.0,
        relative_tolerance: float = 1e-6,
        reset: Reset = "grow",
        steps_per_epoch: int | None = None,
        condition: Condition = "momentum",
        update_rule: UpdateRule = "joint",
        joint_steps: int = 5,
        merge_threshold: float | None = None,
        **group_options: Any,
    ) -> None:
        _require(initial_step_size > 0, "initial_step_size", initial_step_size, "greater than 0")
        _require(0 < c < 1, "c", c, "between 0 and 1")
        _require(0 < shrink < 1, "shrink", shrink, "between 0 and 1")
        _require(growth >= 1, "growth", growth, "at least 1")
        _require(weight_decay >= 0, "weight_decay", weight_decay, "at least 0")
        _require(0 <= smoothing < 1, "smoothing", smoothing, "at least 0 and less than 1")
        _require(0 <= heavy_ball < 1, "heavy_ball", heavy_ball, "at least 0 and less than 1")
        _require(bracket is None or 0 < bracket < 1, "bracket", bracket, "between 0 and 1, or None")
        _require(max_trials >= 1, "max_trials", max_trials, "at least 1")
        _require(
            0 <= min_step_size <= initial_step_size <= max_step_size,
            "min_step_size and max_step_size",
            (min_step_size, max_step_size),
            f"bounds around initial_step_size = {initial_step_size}",
        )
        _require(relative_tolerance >= 0, "relative_tolerance", relative_tolerance, "at least 0")
        _require(
            steps_per_epoch is None or steps_per_epoch >= 1, "steps_per_epoch", steps_per_epoch, "at least 1, or None"
        )
        _require(joint_steps >= 0, "joint_steps", joint_steps, "at least 0")
        _require(merge_threshold is None or merge_threshold > 0, "merge_threshold", merge_threshold, "above 0, or None")
        if "betas" in group_options:
            betas = group_options["betas"]
            _require(all(0 <= beta < 1 for beta in betas), "betas", betas, "at least 0 and less than 1, both")
            _require(group_options["eps"] >= 0, "eps", group_options["eps"], "at least 0")
        for name, value, allowed in [
            ("reset", reset, get_args(Reset)),
            ("condition", condition, get_args(Condition)),
            ("update_rule", update_rule, get_args(UpdateRule)),
        ]:
            _require(value in allowed, name, value, "one of " + ", ".join(allowed))
        defaults = {
            "lr": initial_step_size,
            "lr_factor": 1.0,
            "anchor_decay": 0.0,
            "anchor_device": "parameter",
            "initial_step_size": initial_step_size,
            "c": c,
            "shrink": shrink,
            "growth": growth,
            "weight_decay": weight_decay,
            "smoothing": smoothing,
            "heavy_ball": heavy_ball,
            "bracket": bracket,
            "max_trials": max_trials,
            "min_step_size": min_step_size,
            "max_step_size": max_step_size,
            "relative_tolerance": relative_tolerance,
            **group_options,
            **_MEMORY,
        }
        self.direction = direction
        self.reset = reset
        self.steps_per_epoch = steps_per_epoch
        self.condition = condition
        self.update_rule = update_rule
        self.joint_steps = joint_steps
        self.merge_threshold = merge_threshold
        self._record: dict[str, Any] | StepRecord | None = None
        # Memory for the copy that a search starts from, kept from search to search, by the id of the group.
        self._spare: dict[int, list[Tensor]] = {}
        torch.optim.Optimizer.__init__(self, params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; with `anchor_decay`, the present values of its pretrained parameters become their anchors."""
        torch.optim.Optimizer.add_param_group(self, param_group)
        keep_anchors(self, self.param_groups[-1])

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state; its anchors replace those taken when the optimizer was made."""
        require_anchors(state_dict)
        torch.optim.Optimizer.load_state_dict(self, state_dict)
        place_anchors(self)

    def __getstate__(self) -> dict[str, Any]:
        own = ["direction", "reset", "steps_per_epoch", "condition", "update_rule", "joint_steps", "merge_threshold"]
        return (
            torch.optim.Optimizer.__getstate__(self)
            | {name: self.__dict__[name] for name in own}
            | {"_record": self.last_step}
        )

    def __setstate__(self, state: dict[str, Any]) -> None:
        torch.optim.Optimizer.__setstate__(self, state)
        self._spare = {}

    @property
    def last_step(self) -> StepRecord | None:
        """What the last step did; None before the first one."""
        if isinstance(self._record, dict):
            numbers: dict[str, Any] = {k: float(v) if isinstance(v, Tensor) else v for k, v in self._record.items()}
            # A device is not asked in the step itself whether the loss is finite.
            numbers["accepted"] = numbers["accepted"] and math.isfinite(numbers["loss_before"])
            self._record = StepRecord(**numbers)
        return self._record

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
        parameters = [p for group in self.param_groups for p in group["params"]]
        loss, start, evaluate = open_step(type(self).__name__, closure, evaluate, loss, parameters)
        for group in self.param_groups:
            group["steps_since_search"] += 1
        parts = [GroupUpdate(group, self.state, self.direction) for group in self.param_groups]
        parts = [part for part in parts if part.params]
        if not parts:
            self._record = dict(_NOTHING_SEARCHED, loss_before=loss, step_size=self.param_groups[0]["lr"])
            return loss
        finite = _finite(start, parts)
        if finite.device.type == "cpu":
            if not finite:
                self._skip(start)
                return loss
        else:
            # Asking would stall the device. There the gradients count as zero, so that momentum alone moves, and a
            # search fails at its first trial.
            broken = ~finite
            for part in parts:
                for grad in part.grads:
                    grad.masked_fill_(broken.to(grad.device, non_blocking=True), 0.0)
            start = torch.where(finite, start, torch.nan)
        self._move(self._units_of(parts), evaluate, start)
        return loss

    def is_due(self, unit: Unit) -> bool:
        """Whether this unit may search in the present step."""
        return True

    def first_trial(self, unit: Unit) -> float:
        """The step size that a search of this unit starts from, by the reset rule."""
        if self.reset == "restart":
            return float(unit["initial_step_size"])
        if not unit["searches"]:
            return float(max(group["lr"] for group in unit.groups))
        if self.reset == "keep" or not unit["settled"]:
            return float(unit["lr"])
        steps = unit["steps_since_search"]
        return float(unit["lr"] * unit["growth"] ** (steps / (self.steps_per_epoch or DEFAULT_STEPS_PER_EPOCH)))

    def searched(self, unit: Unit, waited: int) -> None:
        """Called after each search of a unit that found a step size, so many steps after the one before it.

        A subclass keeps averages here.
        """

    def units(self) -> list[Unit]:
        """The units, in the order of their first groups; under the rule "joint" a single one without a name."""
        units: dict[str | None, Unit] = {}
        for index, group in enumerate(self.param_groups):
            name = None if self.update_rule == "joint" else _unit_name(group, index)
            units.setdefault(name, Unit(name)).groups.append(group)
        return list(units.values())

    def unit_reports(self):
        from optimizers.units import divide

        return {unit.name or "model": unit.report(None) for unit in divide(self.param_groups, self.update_rule)}

    def _units_of(self, parts: list[GroupUpdate]) -> list[Unit]:
        """The units with something to move."""
        units = self.units()
        owner = {id(group): unit for unit in units for group in unit.groups}
        for part in parts:
            owner[id(part.group)].parts.append(part)
        return [unit for unit in units if unit.parts]

    def _move(self, units: list[Unit], evaluate: Evaluate, loss: Tensor | float) -> None:
        """Search for the step sizes that are due, and move everything."""
        due = [unit for unit in units if self.is_due(unit)]
        joint = len(units) > 1 and all(unit["searches"] + unit["failures"] < self.joint_steps for unit in units)
        if joint:
            due, results = units, self._search_together(units, evaluate, loss)
        elif self.update_rule == "all" and len(due) > 1:
            results = self._search_each(due, evaluate, loss)
        else:
            due = [max(due, key=lambda unit: self._urgency(unit, len(units)))] if due else []
            results = self._search_together(due, evaluate, loss) if due else []
        for unit in units:
            if unit in due:
                continue
            for part in unit.parts:
                # A unit whose step size nobody has found yet waits for its search.
                if unit["searches"]:
                    part.step_without_search(unit["lr"])
                else:
                    part.compute_direction()
            if unit["searches"]:
                self._spare.clear()
        if results:
            self._note(results, due)
        else:
            # The loss stays on its device until somebody asks for the record.
            before = loss.clone() if isinstance(loss, Tensor) else loss
            self._record = dict(_NOTHING_SEARCHED, loss_before=before, step_size=units[0]["lr"])
        if self.merge_threshold is not None and not joint:
            for unit in due:
                self._merge(unit, units)

    def _urgency(self, unit: Unit, num_units: int) -> tuple[bool, float]:
        """Which unit searches next: one that has no step size yet, else the one that waited longest.

        Under the rule "impact" the time waited is weighted by the smoothed slope, corrected for its start at zero. A
        unit whose searches have all failed comes first no more often than in turn.
        """
        waited = float(unit["steps_since_search"])
        if not unit["searches"]:
            return not unit["failures"] or waited >= num_units, waited
        if self.update_rule != "impact":
            return False, waited
        return False, waited * unit["average_slope"] / (1 - _weight_of_past(unit) ** unit["searches"])

    def _search_together(self, units: list[Unit], evaluate: Evaluate, loss: Tensor | float) -> list[SearchResult]:
        """Search for one step size for all these units, and move them."""
        line = Line(units, [1.0] * len(units), self._tries_without_momentum(units), self._spare)
        result = self._search(line, evaluate, loss, self.first_trial(units[0]))
        if result.accepted:
            line.take(result.step_size)
            self._remember(units, result)
        else:
            self._remember_failure(units, result)
        return [result]

    def _search_each(self, units: list[Unit], evaluate: Evaluate, loss: Tensor | float) -> list[SearchResult]:
        """Search for a step size for each of these units alone, from where they are; then for one factor for all.

        The last of the results speaks for the step as a whole.
        """
        results, found = [], []
        for unit in units:
            line = Line([unit], [1.0], self._tries_without_momentum(units), self._spare)
            result = self._search(line, evaluate, loss, self.first_trial(unit))
            results.append(result)
            if result.accepted:
                line.move_to(0.0)
                found.append((unit, result))
            else:
                self._remember_failure([unit], result)
        if not found:
            return results
        moving = [unit for unit, _ in found]
        step_sizes = [result.step_size for _, result in found]
        line = Line(moving, step_sizes, self._tries_without_momentum(units), self._spare)
        together = self._search(line, evaluate, loss, 1.0) if len(found) > 1 else None
        factor = together.step_size if together else 1.0
        if together and not together.accepted:
            self._remember_failure(moving, replace(together, step_size=math.inf))
            return [*results, together]
        line.take(factor)
        for unit, result in found:
            self._remember([unit], replace(result, step_size=factor * result.step_size))
        return [*results, together] if together else [*results, replace(found[0][1], trials=0, backtracks=0)]

    def _search(self, line: Line, evaluate: Evaluate, loss: Tensor | float, step_size: float) -> SearchResult:
        """Search along a line. Leaves the parameters at the last trial, or where they were if the search failed."""

        def loss_at(step_size: float) -> Tensor | float:
            line.move_to(step_size)
            return as_loss(evaluate())

        try:
            result = self._find_step_size(line, loss_at, loss, step_size)
        except BaseException:
            line.move_to(0.0)
            raise
        if not result.accepted:
            line.move_to(0.0)
        return result

    def _find_step_size(
        self, line: Line, loss_at: Callable[[float], Tensor | float], loss: Tensor | float, step_size: float
    ) -> SearchResult:
        """The search itself: Armijo's, with the options and the averages of the line's units."""
        raise NotImplementedError

    def _tries_without_momentum(self, units: list[Unit]) -> bool:
        return self.condition == "gradient" or units[0]["heavy_ball"] > 0

    def _remember(self, units: list[Unit], result: SearchResult) -> None:
        """Update what the units remember after a search that found a step size."""
        slopes = iter(result.slopes)
        for unit in units:
            slope = math.fsum(next(slopes) for _ in unit.parts)
            # What a joint step gained is credited to its units in proportion to their slopes.
            share = slope / result.slope if result.slope > 0 else 1 / len(units)
            decrease = (result.loss_before - result.loss) * share
            past = _weight_of_past(unit)
            waited = unit["steps_since_search"]
            unit.update(
                lr=result.step_size,
                searches=unit["searches"] + 1,
                trials=unit["trials"] + result.trials,
                backtracks=unit["backtracks"] + result.backtracks,
                steps_since_search=0,
                settled=True,
                slope=slope,
                average_slope=past * unit["average_slope"] + (1 - past) * slope,
                average_decrease=past * unit["average_decrease"] + (1 - past) * decrease,
            )
            self.searched(unit, waited)

    def _remember_failure(self, units: list[Unit], result: SearchResult) -> None:
        """Keep the step size where the losses said nothing; go on from the smallest one tried where they said no."""
        counter = "failures" if math.isfinite(result.loss_before) else "skipped"
        for unit in units:
            for part in unit.parts if counter == "failures" else []:
                part.reset_momentum()
            unit.update(
                **{counter: unit[counter] + 1},
                trials=unit["trials"] + result.trials,
                backtracks=unit["backtracks"] + result.backtracks,
                steps_since_search=0,
                lr=min(unit["lr"], result.step_size),
                settled=unit["settled"] and result.step_size >= unit["lr"],
            )

    def _merge(self, unit: Unit, units: list[Unit]) -> None:
        """Let a unit with a tiny step size join its neighbour: one step size, one search, the sums of its averages."""
        if unit["lr"] >= self.merge_threshold or len(units) == 1:
            return
        place = units.index(unit)
        neighbour = units.pop(place - 1 if place else 1)
        units.remove(unit)
        merged = Unit(neighbour.name, neighbour.groups + unit.groups, neighbour.parts + unit.parts)
        for group in unit.groups:
            group["unit"] = neighbour.name
        merged.update(
            **{name: neighbour[name] for name in _MEMORY if name not in ("average_slope", "average_decrease")},
            lr=neighbour["lr"],
            average_slope=neighbour["average_slope"] + unit["average_slope"],
            average_decrease=neighbour["average_decrease"] + unit["average_decrease"],
        )
        units.insert(max(0, place - 1), merged)

    def _note(self, results: list[SearchResult], due: list[Unit]) -> None:
        last = results[-1]
        self._record = StepRecord(
            loss_before=results[0].loss_before,
            loss_after=last.loss,
            evaluations=sum(result.trials for result in results),
            backtracks=sum(result.backtracks for result in results),
            step_size=due[0]["lr"],
            slope=math.fsum(result.slope for result in results[: len(due)]),
            accepted=last.accepted,
            group=due[0].name if len(due) == 1 else None,
        )

    def _skip(self, loss: Tensor | float) -> None:
        for group in self.param_groups:
            group["skipped"] += 1
        self._record = dict(_NOTHING_SEARCHED, loss_before=loss, step_size=self.param_groups[0]["lr"], accepted=False)


@dataclass(eq=False)
class Unit:
    """The groups that share a step size; reads and writes what they remember, which is the same in all of them."""

    name: str | None
    groups: list[dict[str, Any]] = field(default_factory=list)
    parts: list[GroupUpdate] = field(default_factory=list)

    def __getitem__(self, name: str) -> Any:
        return self.groups[0][name]

    def update(self, **values: Any) -> None:
        for group in self.groups:
            group.update(values)


class Line:
    """The line along which some units move: `step_size` times their relative step sizes times their directions."""

    def __init__(
        self, units: list[Unit], relative: list[float], without_momentum: bool, spare: dict[int, list[Tensor]]
    ) -> None:
        self.units = units
        self.relative = relative
        self.without_momentum = without_momentum
        self.position = 0.0
        self.parts = [(part, factor) for unit, factor in zip(units, relative, strict=True) for part in unit.parts]
        for part, _ in self.parts:
            part.compute_direction()
            if not part.start:
                part.save(spare.get(id(part.group)))
                spare[id(part.group)] = part.start

    def slopes(self) -> Tensor:
        """What each part contributes to the slope of the line."""
        return gather([part.slope(self.without_momentum) * factor for part, factor in self.parts])

    def move_to(self, step_size: float, without_momentum: bool | None = None) -> None:
        """Put the parameters at this step size, always starting from the same bits."""
        along = self.without_momentum if without_momentum is None else without_momentum
        for part, factor in self.parts:
            if self.position:
                part.restore()
            if step_size:
                part.descend(step_size * factor, along)
        self.position = step_size
        torch.clear_autocast_cache()  # it holds low-precision copies of weights that have just changed

    def take(self, step_size: float) -> None:
        """Make the step itself, which may have a momentum that the trials left out."""
        along = self.parts[0][0].group["heavy_ball"] > 0
        differs = along != self.without_momentum and any(part.direction.without_momentum for part, _ in self.parts)
        if differs or self.position != step_size:
            self.move_to(step_size, along)
        for part, factor in self.parts:
            part.commit(step_size * factor)


def heavy_ball_momentum(momentum: Momentum, betas: tuple[float, float]) -> float:
    """The weight of the last step's displacement: `betas[0]` for a heavy ball, else none."""
    _require(momentum in get_args(Momentum), "momentum", momentum, "one of " + ", ".join(get_args(Momentum)))
    return betas[0] if momentum == "heavy_ball" else 0.0


def _unit_name(group: dict[str, Any], index: int) -> str:
    return group.get("unit") or group.get("name") or f"group {index}"


def _weight_of_past(unit: Unit) -> float:
    return unit["smoothing"] or 0.9


def _finite(loss: Tensor | float, parts: list[GroupUpdate]) -> Tensor:
    """Whether the loss and all gradients are finite, as a 0-dim tensor on the device of the gradients."""
    norms = [norm for part in parts for norm in part.gradient_norms()]
    if isinstance(loss, Tensor):
        return gather([*norms, loss]).isfinite().all()
    return gather(norms).isfinite().all() & math.isfinite(loss)


def _require(holds: bool, name: str, value: Any, allowed: str) -> None:
    if not holds:
        raise ValueError(f"{name} has to be {allowed}, got {value!r}")
