"""Gradientless descent: try random candidates around the present point and keep the best of them."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim import Optimizer

from optimizers.checks import require, require_integer, require_one_of
from optimizers.entry_selection import Selection, compute_gradients, select_entries, subset_count
from optimizers.gld_candidates import CandidateUnit, EvaluateMany, Trial, Trials, UnitKind, candidate_units, objective
from optimizers.gradient_free_step import GradientFreeStep, discard_gradients, read_losses, trainable
from optimizers.lookahead import Option, OptionTree, Path
from optimizers.perturbation import NoiseDevice, Perturbation, derive_seed
from optimizers.shards import asks_for_state, is_sharded, local_part
from optimizers.step_contract import Closure, Evaluate, Loss, StepRecord
from optimizers.xla_graphs import end_graph

# Attributes that are kept when the optimizer is pickled.
_SETTINGS = (
    "num_radii",
    "shrink",
    "units",
    "units_per_round",
    "rounds",
    "success_rate",
    "adaptation_rate",
    "selection",
    "reselect_every",
    "lookahead_levels",
    "lookahead_width",
    "candidates",
    "copy_limit",
    "noise_device",
    "last_step",
)
# In the place of a candidate's number, from 0 on, it separates the draws of positions from the draws of noise.
_SELECTION = -1


class GLD(Optimizer):
    r"""Gradientless descent: random candidates at falling radii, the best of which is kept if it lowers the loss.

    Golovin et al. (arXiv 1911.06317), as Coslu's thesis ("Gradientless Optimization for Language Model Finetuning")
    fine-tunes transformers: for one unit :math:`θ` (a tensor or several) after the other, on a mini-batch,

    .. math::
        v_k \sim s^k R \, \mathcal{N}(0, I),\ k = 0 … K - 1, \quad θ ← \arg\min \{ J(θ), J(θ + v_0), … \}, \quad
        J(θ) = L(θ) + λ \sum_{p \in θ} \lVert p \rVert_2

    Args:
        params: Parameters or groups; a group may have its own `radius`, `subset_size`, `norm_weight`, `unit`, `name`.
        radius: :math:`R`, the standard deviation of the largest candidate's noise, kept as `lr`. 7.5e-3 in the thesis.
        num_radii: :math:`K`, the number of candidates. 5 in the thesis.
        shrink: :math:`s`, the ratio of each candidate's radius to that of the one before, in (0, 1]. 0.5 in the thesis.
        units: `tensor` moves one tensor at a time; `group` those of a group, and of groups with the same `unit`.
        units_per_round: How many units a round moves, in turn; the next round goes on where it ended. None: all.
        rounds: How many rounds a step makes on its batch.
        success_rate: The share of a unit's steps that should succeed; its radius follows. None: radii do not adapt.
        adaptation_rate: How fast radii adapt (docs/gradient_free.md, as for the lookahead).
        selection: Which entries of a tensor move: `all`, a `random` subset, the `largest` magnitudes, or `fisher`, the
            largest squared gradients of one batch: for those alone the closure is called, once per selection.
        subset_size: Size of the subset: a number of entries, at most the tensor's, or a share in (0, 1].
        reselect_every: The number of steps after which the subset is chosen anew.
        lookahead_levels: By how many steps decisions are delayed. No effect at a width of 1.
        lookahead_width: How many options are kept per level. Above 1, a copy of the parameters is kept.
        norm_weight: :math:`λ`, the weight of the L2 norm of each tensor. 0.05 in the thesis.
        candidates: `one_at_a_time` evaluates one by one; `at_once` takes the losses of all from `evaluate_many`.
        seed: What all random draws follow from.
        copy_limit: Units up to this number of bytes are restored from a copy, larger ones by exact arithmetic; in half
            precision always from a copy.
        noise_device: Where noise is drawn: `cpu`, the same numbers for any device, or the `parameter`'s own device.

    Raises:
        ValueError: An argument is out of range; a parameter is complex.

    Example::

        optimizer = GLD(model.classifier.parameters(), radius=0.01)
        loss = optimizer.step(evaluate=lambda: loss_function(model(inputs), targets))
    """

    needs_gradient = False

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        radius: float = 7.5e-3,
        num_radii: int = 5,
        shrink: float = 0.5,
        *,
        units: UnitKind = "tensor",
        units_per_round: int | None = None,
        rounds: int = 1,
        success_rate: float | None = None,
        adaptation_rate: float = 0.1,
        selection: Selection = "all",
        subset_size: int | float | None = None,
        reselect_every: int = 1,
        lookahead_levels: int = 1,
        lookahead_width: int = 1,
        norm_weight: float = 0.0,
        candidates: Literal["one_at_a_time", "at_once"] = "one_at_a_time",
        seed: int = 0,
        copy_limit: int = 2**22,
        noise_device: NoiseDevice = "cpu",
    ) -> None:
        self.num_radii = num_radii
        self.shrink = shrink
        self.units: UnitKind = units
        self.units_per_round = units_per_round
        self.rounds = rounds
        self.success_rate = success_rate
        self.adaptation_rate = adaptation_rate
        self.selection: Selection = selection
        self.reselect_every = reselect_every
        self.lookahead_levels = lookahead_levels
        self.lookahead_width = lookahead_width
        self.candidates = candidates
        self.copy_limit = copy_limit
        self.noise_device: NoiseDevice = noise_device
        self.last_step: StepRecord | None = None
        self._check_settings()
        if selection != "all" and subset_size is None:
            raise ValueError(f"subset_size: a {selection} selection needs one")
        require_integer("seed", seed)
        defaults = {"lr": radius, "subset_size": subset_size, "norm_weight": norm_weight, "seed": seed}
        super().__init__(params, {**defaults, "step": 0, "skipped": 0})

    def _check_settings(self) -> None:
        counts = ("num_radii", "units_per_round", "rounds", "reselect_every", "lookahead_levels", "lookahead_width")
        for name in counts:
            require_integer(name, getattr(self, name), 1, or_none=name == "units_per_round")
        for name, allowed in (
            ("units", ("tensor", "group")),
            ("selection", ("all", "random", "largest", "fisher")),
            ("candidates", ("one_at_a_time", "at_once")),
            ("noise_device", ("cpu", "parameter")),
        ):
            require_one_of(name, getattr(self, name), allowed)
        require(0 < self.shrink <= 1, "shrink", self.shrink, "above 0 and up to 1")
        is_rate = self.success_rate is None or 0 < self.success_rate < 1
        require(is_rate, "success_rate", self.success_rate, "between 0 and 1, or None")
        require(self.adaptation_rate > 0, "adaptation_rate", self.adaptation_rate, "above 0")
        require(self.copy_limit >= 0, "copy_limit", self.copy_limit, "at least 0 bytes")

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; its `radius` becomes its `lr`."""
        if "radius" in param_group:
            param_group = {**param_group, "lr": param_group["radius"]}
            del param_group["radius"]
        for argument, key in (("radius", "lr"), ("norm_weight", "norm_weight")):
            value = param_group.get(key, self.defaults[key])
            require(0 <= value < math.inf, argument, value, "at least 0")
        subset_count(1, param_group.get("subset_size", self.defaults["subset_size"]))
        super().add_param_group(param_group)
        if any(is_sharded(parameter) for parameter in self.param_groups[-1]["params"]):
            self._check_sharded()

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {name: getattr(self, name) for name in _SETTINGS}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state; positions of entries stay integers, where torch would give them the parameter's type."""
        super().load_state_dict(state_dict)
        saved = [key for group in state_dict["param_groups"] for key in group["params"]]
        params = [param for group in self.param_groups for param in group["params"]]
        for key, param in zip(saved, params, strict=True):
            for number, index in state_dict["state"].get(key, {}).get("indices", {}).items():
                self.state[param]["indices"][number] = None if index is None else index.to(param.device)

    @torch.no_grad()
    def step(  # type: ignore[override]
        self,
        closure: Closure | None = None,
        *,
        evaluate: Evaluate | None = None,
        loss: Loss | None = None,
        evaluate_many: EvaluateMany | None = None,
    ) -> Loss:
        """Move the units of this step to their best candidates.

        An exception in a trial leaves the unit that it is about where it was. Units that this step has moved before it
        stay at their candidates, each of which lowered the loss: the way back would take a copy of all of them.

        Args:
            closure: Called in place of `evaluate` where that is missing, and for the `fisher` selection.
            evaluate: Computes the loss of the batch at the present parameters.
            loss: Not used: the loss at the start is evaluated.
            evaluate_many: Computes the losses of several candidates: called with a list of parameters and a list of
                tensors, each with one more dimension in front, it returns one loss per entry of that dimension.

        Returns:
            The loss at the start of the step.

        Raises:
            ValueError: A callable that the settings need is missing.
        """
        if asks_for_state(self.param_groups, closure, evaluate, loss):
            self._complete_state(candidate_units(trainable(self.param_groups), self.param_groups, self.units))
            return math.nan
        if self.candidates == "at_once" and evaluate_many is None:
            raise ValueError("candidates: at_once needs step(evaluate_many=…); without it use one_at_a_time")
        step = GradientFreeStep(self, closure, evaluate)
        start = step.loss()
        (before,) = read_losses([start])
        after, successes, radii, names, any_finite = before, 0, [], set(), False
        if math.isfinite(before):
            search = self._search if self.lookahead_width == 1 else self._search_ahead
            selection = step.number // self.reselect_every
            for unit, turn in self._moving_units(step, selection, closure):
                radii.append(self._radius(unit))
                names.add(unit.name)
                trials = Trials(step, evaluate_many if self.candidates == "at_once" else None)
                after, succeeded = search(trials, unit, selection, turn, after)
                end_graph(unit.tensors[0].device)
                successes += succeeded
                if trials.any_finite:  # otherwise losses tell nothing about radii
                    self._adapt_radius(unit, succeeded)
                    any_finite = True
        else:
            before = after = float(start)
        step.finish(skipped=not math.isfinite(before) or (bool(radii) and not any_finite))
        self.last_step = StepRecord(
            loss_before=before,
            loss_after=after,
            evaluations=step.evaluations,
            backtracks=step.evaluations - 1 - successes,
            step_size=math.fsum(radii) / len(radii) if radii else 0.0,
            slope=math.nan,
            accepted=successes > 0,
            group=names.pop() if len(names) == 1 else None,
        )
        return start

    def _check_sharded(self) -> None:
        if self.candidates == "at_once":
            raise ValueError("candidates: at_once needs whole parameters; sharded ones take one_at_a_time")
        if self.lookahead_width > 1 and self.selection != "all":
            raise ValueError(f"selection: {self.selection} with a lookahead needs whole parameters, to be resumed")
        if self.reselect_every > 1 and self.selection in ("largest", "fisher"):
            raise ValueError(f"reselect_every: above 1, {self.selection} needs whole parameters, to be resumed")

    def _complete_state(self, units: Sequence[CandidateUnit]) -> None:
        """Make the state of units that have none.

        Of a sharded checkpoint `torch.distributed.checkpoint` (torch 2.13) fills in the entries that are there already,
        and takes it that all parameters have a state or none.
        """
        for unit in units:
            for tensor in unit.tensors if self.success_rate is not None else ():
                self.state[tensor].setdefault("radius_factor", 1.0)
            if self.lookahead_width > 1 and not self._has_tree(unit):
                self.state[unit.tensors[0]].update(OptionTree.of_staying(self.lookahead_levels).to_state())
                self._keep_root(unit)

    def _has_tree(self, unit: CandidateUnit) -> bool:
        """Return whether a unit has a tree that was made for all its tensors, in one step.

        One made before a tensor was frozen, or could move again, starts from values that the tensors no longer have.
        """
        *_, step = self.state[unit.tensors[0]].get("rooted", [0])
        return all(self.state[tensor].get("rooted") == [len(unit.tensors), step] for tensor in unit.tensors)

    def _moving_units(
        self, step: GradientFreeStep, selection: int, closure: Closure | None
    ) -> Iterator[tuple[CandidateUnit, int]]:
        """Yield the units of a step in the order in which they move, each with the number of its round."""
        every = candidate_units(step.members, self.param_groups, self.units)
        self._complete_state(every)
        units = [unit for unit in every if unit.lr > 0]
        count = min(self.units_per_round or len(units), len(units))
        for turn in range(step.number * self.rounds, (step.number + 1) * self.rounds):
            moving = [units[(turn * count + offset) % len(units)] for offset in range(count)]
            self._select_entries(moving, selection, closure)
            yield from ((unit, turn) for unit in moving)

    def _radius(self, unit: CandidateUnit) -> float:
        return self.state[unit.tensors[0]].get("radius_factor", 1.0) * unit.lr

    def _adapt_radius(self, unit: CandidateUnit, succeeded: bool) -> None:
        if self.success_rate is not None:
            exponent = self.adaptation_rate * (succeeded - self.success_rate)
            factor = self.state[unit.tensors[0]]["radius_factor"] * math.exp(exponent)
            for tensor in unit.tensors:
                self.state[tensor]["radius_factor"] = factor

    def _select_entries(self, units: Sequence[CandidateUnit], selection: int, closure: Closure | None) -> None:
        """Choose which entries move, in tensors whose present selection has another number."""
        if self.selection == "all":
            return
        due = [
            (unit, place)
            for unit in units
            for place, tensor in enumerate(unit.tensors)
            if selection not in self.state[tensor].get("indices", {})
        ]
        if due and self.selection == "fisher":
            if closure is None:
                raise ValueError("selection: fisher needs step(closure=…) for its squared gradients")
            compute_gradients([unit.tensors[place] for unit, place in due], closure)
        for unit, place in due:
            tensor, group = unit.members[place]
            state = self.state[unit.tensors[0]]
            in_use = OptionTree.from_state(state).selections() if "tree" in state else set()
            seed = derive_seed(group["seed"], selection, unit.number, _SELECTION, place)
            index = select_entries(tensor, self.selection, subset_count(tensor.numel(), group["subset_size"]), seed)
            past = self.state[tensor].get("indices", {})
            self.state[tensor]["indices"] = {key: past[key] for key in past if key in in_use} | {selection: index}
        if self.selection == "fisher":
            discard_gradients(self.param_groups)

    def _perturbation(self, unit: CandidateUnit, selection: int, radius: float) -> Perturbation:
        return Perturbation(
            unit.tensors,
            [self.state[tensor].get("indices", {}).get(selection) for tensor in unit.tensors],
            # The options of a lookahead start from a copy in any case.
            copy_limit=self.copy_limit if self.lookahead_width == 1 else sys.maxsize,
            largest_scale=radius,
            noise_device=self.noise_device,
            factors=unit.noise_factors,
        )

    def _moves(self, unit: CandidateUnit, turn: int, leaf: int = 0) -> list[tuple[int, float]]:
        """Return seeds and scales of the candidates around a point: where the unit is, or a leaf of its tree."""
        seed, radius = unit.members[0][1]["seed"], self._radius(unit)
        return [(derive_seed(seed, turn, unit.number, leaf, k), radius * self.shrink**k) for k in range(self.num_radii)]

    def _search(
        self, trials: Trials, unit: CandidateUnit, selection: int, turn: int, loss: float
    ) -> tuple[float, bool]:
        """Move a unit to its best candidate; return the loss there, and whether the objective is lower than before."""
        perturbation = self._perturbation(unit, selection, self._radius(unit))
        stay = loss + read_losses([unit.penalty()])[0]
        try:
            staying, moved = trials.of_moves(perturbation, unit, self._moves(unit, turn))
            stay = stay if staying is None else staying.objective
            best = min(moved, key=objective)
        except BaseException:
            perturbation.back()
            raise
        if best.objective < stay:
            perturbation.move(best.seed, best.scale)
            return best.loss, True
        perturbation.back()
        return loss, False

    def _search_ahead(
        self, trials: Trials, unit: CandidateUnit, selection: int, turn: int, loss: float
    ) -> tuple[float, bool]:
        """Grow a unit's tree of options by a level, commit to the best first option, and go to the best leaf."""
        state = self.state[unit.tensors[0]]
        tree = OptionTree.from_state(state)
        here = Trial(loss + read_losses([unit.penalty()])[0], loss)
        children: dict[Path, list[Option]] = {}
        first: dict[Path, Trial] = {}
        for leaf, path in enumerate(tree.leaves()):
            try:
                self._put(unit, tree.along(path))
                is_known = trials.at_once or path == tree.current
                stay = here if is_known else trials.of_staying(unit)
                perturbation = self._perturbation(unit, selection, self._radius(unit))
                staying, moved = trials.of_moves(perturbation, unit, self._moves(unit, turn, leaf))
                stay = staying or stay
            except BaseException:
                self._put(unit, tree.along(tree.current))
                raise
            here = stay if path == tree.current else here
            found = sorted([stay, *moved], key=objective)  # stable: staying comes first among equals
            children[path] = [Option(selection, trial.seed, trial.scale) for trial in found[: self.lookahead_width]]
            first[path] = found[0]
        # The unit is at the best leaf of the steps before; only a lower objective takes it elsewhere.
        best, best_path = here, tree.current
        for path, trial in first.items():
            if trial.objective < best.objective:
                best, best_path = trial, path
        tree.grow(children)
        self._put(unit, [tree.commit(best_path)])
        self._keep_root(unit)
        self._put(unit, tree.along(tree.current))
        state.update(tree.to_state())
        return best.loss, best.objective < here.objective

    def _keep_root(self, unit: CandidateUnit) -> None:
        """Keep where the unit is as the point that its options start from.

        `rooted` says how many tensors that was done for, and in which step, for `_has_tree`.
        """
        for tensor in unit.tensors:
            rooted = [len(unit.tensors), self.param_groups[0]["step"]]
            self.state[tensor].update(root=tensor.clone(), rooted=rooted)

    def _put(self, unit: CandidateUnit, options: Iterable[Option]) -> None:
        """Put a unit at the root of its tree and move it by some options, in order."""
        for tensor in unit.tensors:
            local_part(tensor).copy_(local_part(self.state[tensor]["root"]))
        for option in options:
            if option.scale != 0:
                self._perturbation(unit, option.selection, option.scale).move(option.seed, option.scale)
