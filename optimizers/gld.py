"""Gradientless descent: try random candidates around the present point and keep the best of them."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim import Optimizer

from optimizers.entry_selection import Selection, select_entries, subset_count
from optimizers.perturbation import NoiseDevice, Perturbation, derive_seed
from optimizers.step_contract import StepRecord
from optimizers.trial_losses import Loss, discard_gradients, loss_function, read_numbers, trainable

EvaluateMany = Callable[[Sequence[Tensor], Sequence[Tensor]], Tensor]

# Node of a lookahead tree: [selection round, seed, scale, children], which a checkpoint can hold as it is.
_Node = list[Any]
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
# What separates the draws of positions from the draws of noise, which count candidates from 0 on.
_SELECTION = -1


@dataclass(frozen=True)
class _Unit:
    """Tensors that move together.

    Args:
        name: The name of the group, or of the tensor's place in it.
        members: The tensors with their groups; the state of the unit is kept with the first one.
    """

    name: str
    members: list[tuple[Tensor, dict[str, Any]]]

    @property
    def tensors(self) -> list[Tensor]:
        return [tensor for tensor, _ in self.members]


class GLD(Optimizer):
    r"""Gradientless descent: random candidates at falling radii, the best of which is kept if it lowers the loss.

    Golovin et al., "Gradientless Descent" (arXiv 1911.06317), in the form in which Coslu ("Gradientless Optimization
    for Language Model Finetuning") fine-tunes transformers: unit by unit, on a mini-batch. For each unit :math:`θ` (a
    tensor, or the tensors of a group together) and :math:`k = 0 … K - 1`

    .. math::

        v_k \sim s^k R \, \mathcal{N}(0, I), \qquad
        θ ← \arg\min \{ J(θ), J(θ + v_0), …, J(θ + v_{K-1}) \}, \qquad
        J(θ) = L(θ) + λ \sum_{p \in θ} \lVert p \rVert_2

    so that :math:`J` never rises on the batch at hand. No gradient is computed and no perturbation stored: candidates
    are drawn again from seeds (see :class:`~optimizers.perturbation.Perturbation` for what is kept while a unit is in
    motion, and how it returns bit for bit). All draws follow from ``seed``, the number of the step and the unit, so
    that ranks which see the same losses make the same steps.

    The radius in force is the group's ``lr``: any torch learning-rate schedule is a radius schedule (``LinearLR`` to
    0.1, ``CosineAnnealingLR``, ``LambdaLR``), and resumes as schedules do. With ``success_rate`` :math:`p`, every unit
    has a factor on it, driven by evolution strategies' success rule (Rechenberg's 1/5 rule): after a step of the unit

    .. math:: \log f ← \log f + a \, (\mathbb{1}[\text{a candidate was kept}] - p)

    With ``lookahead_width`` :math:`m > 1`, decisions are delayed. Each unit keeps a tree of options,
    ``lookahead_levels`` :math:`ℓ` deep, of the :math:`m` best candidates of each node (staying is one of them). A step
    tries :math:`K` candidates around each of its :math:`m^ℓ` leaves, then commits to the first-level option above the
    best of them. In between, the unit sits at the best leaf. With :math:`m = 1` this is gradientless descent itself,
    whatever :math:`ℓ` is.

    Args:
        params: Parameters or groups of them. A group may have its own ``radius`` (or ``lr``, which is the same),
            ``subset_size``, ``norm_weight``, and ``unit`` and ``name``.
        radius: :math:`R`, the standard deviation that the largest candidate adds to each entry. 7.5e-3 in the thesis.
        num_radii: :math:`K`, the number of candidates. 5 in the thesis.
        shrink: :math:`s`, the ratio of each candidate's radius to that of the one before. 0.5 in the thesis.
        units: ``tensor`` moves one tensor at a time. ``group`` moves the tensors of a group together, and groups with
            the same ``unit`` together: a part, a bundle of parts, or the whole model, as the groups have it.
        units_per_round: How many units a round moves, in turn; the next round goes on where it ended. Default: all.
        rounds: How many rounds a step makes on its batch. Where the output of a frozen encoder is computed once per
            batch, further rounds cost little.
        success_rate: :math:`p`, the share of a unit's steps that should succeed: above it the unit's radius grows,
            below it shrinks. Default: radii are not adapted.
        adaptation_rate: :math:`a`, how fast radii adapt.
        selection: Which entries of a tensor move: ``all``, a ``random`` subset, the ``largest`` magnitudes, or those
            with the largest ``fisher`` information, estimated by the squared gradient of one batch; for that alone the
            closure is called, once per selection.
        subset_size: Size of the subset: a number of entries (tensors with fewer move as a whole), or a share in (0, 1].
        reselect_every: Number of steps after which the subset is chosen anew.
        lookahead_levels: :math:`ℓ`, how many steps a decision is delayed by.
        lookahead_width: :math:`m`, how many options are kept per node. Above 1, a copy of the parameters is kept.
        norm_weight: :math:`λ`, weight of the L2 norm of each tensor. 0.05 in the thesis.
        candidates: ``one_at_a_time`` evaluates one candidate after the other, which takes the least memory; ``at_once``
            asks ``evaluate_many`` for the losses of all together, the fastest way for small units such as a head.
        seed: What all random draws follow from.
        copy_limit: Units up to this number of bytes are restored from a copy, larger ones by exact arithmetic.
        noise_device: ``cpu`` draws the same numbers whatever the device; ``parameter`` draws on the parameter's own
            device, faster on accelerators.

    Attributes:
        last_step: What the last step did. ``step_size`` is the mean radius of the units that it moved.
        needs_gradient: ``False``: steps are made of ``evaluate()`` calls.

    Raises:
        ValueError: for an argument out of range.

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
        units: Literal["tensor", "group"] = "tensor",
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
        for argument, number in (
            ("num_radii", num_radii),
            ("units_per_round", 1 if units_per_round is None else units_per_round),
            ("rounds", rounds),
            ("reselect_every", reselect_every),
            ("lookahead_levels", lookahead_levels),
            ("lookahead_width", lookahead_width),
        ):
            if isinstance(number, bool) or not isinstance(number, int) or number < 1:
                raise ValueError(f"{argument}: {number!r} is not allowed; an integer from 1 on")
        for argument, value, allowed in (
            ("units", units, ("tensor", "group")),
            ("selection", selection, ("all", "random", "largest", "fisher")),
            ("candidates", candidates, ("one_at_a_time", "at_once")),
            ("noise_device", noise_device, ("cpu", "parameter")),
        ):
            if value not in allowed:
                raise ValueError(f"{argument}: {value!r} is not allowed; one of {', '.join(allowed)}")
        if not 0 < shrink <= 1:
            raise ValueError(f"shrink: {shrink} is not allowed; above 0 and up to 1")
        if success_rate is not None and not 0 < success_rate < 1:
            raise ValueError(f"success_rate: {success_rate} is not allowed; between 0 and 1, or null for fixed radii")
        if not adaptation_rate > 0:
            raise ValueError(f"adaptation_rate: {adaptation_rate} is not allowed; above 0")
        if selection != "all" and subset_size is None:
            raise ValueError(f"subset_size: a {selection} selection needs one")
        if copy_limit < 0:
            raise ValueError(f"copy_limit: {copy_limit} is not allowed; 0 or more bytes")
        self.num_radii = num_radii
        self.shrink = shrink
        self.units = units
        self.units_per_round = units_per_round
        self.rounds = rounds
        self.success_rate = success_rate
        self.adaptation_rate = adaptation_rate
        self.selection = selection
        self.reselect_every = reselect_every
        self.lookahead_levels = lookahead_levels
        self.lookahead_width = lookahead_width
        self.candidates = candidates
        self.copy_limit = copy_limit
        self.noise_device = noise_device
        self.last_step: StepRecord | None = None
        super().__init__(
            params,
            {
                "lr": radius,
                "subset_size": subset_size,
                "norm_weight": norm_weight,
                "seed": seed,
                "step": 0,
                "skipped": 0,
            },
        )

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        if "radius" in param_group:
            param_group = {**param_group, "lr": param_group["radius"]}
            del param_group["radius"]
        for argument, key in (("radius", "lr"), ("norm_weight", "norm_weight")):
            value = param_group.get(key, self.defaults[key])
            if not 0 <= value < math.inf:
                raise ValueError(f"{argument}: {value} is not allowed; 0 or more")
        subset_count(1, param_group.get("subset_size", self.defaults["subset_size"]))
        super().add_param_group(param_group)

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {name: getattr(self, name) for name in _SETTINGS}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        # torch gives every tensor of the state the parameter's type; positions are integers.
        saved = [key for group in state_dict["param_groups"] for key in group["params"]]
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        for key, parameter in zip(saved, parameters, strict=True):
            for number, index in state_dict["state"].get(key, {}).get("indices", {}).items():
                self.state[parameter]["indices"][number] = None if index is None else index.to(parameter.device)

    @torch.no_grad()
    def step(  # type: ignore[override]
        self,
        closure: Callable[[], Loss] | None = None,
        *,
        evaluate: Callable[[], Loss] | None = None,
        loss: Loss | None = None,
        evaluate_many: EvaluateMany | None = None,
    ) -> Loss:
        """Moves the units of this step to their best candidates.

        Args:
            closure: Called in place of ``evaluate`` where that is missing, and to estimate Fisher information.
            evaluate: Computes the loss of the batch at the present parameters.
            loss: Not used: the loss at the start is evaluated.
            evaluate_many: Computes the losses of several candidates: called with a list of parameters and a list of
                tensors, each with one more dimension in front, it returns one loss per entry of that dimension.

        Returns:
            The loss at the start of the step.

        Raises:
            ValueError: if a callable that the settings need is missing.
        """
        if self.candidates == "at_once" and evaluate_many is None:
            raise ValueError("candidates: at_once needs step(evaluate_many=…); without it use one_at_a_time")
        count = self.param_groups[0]["step"]
        for group in self.param_groups:
            group["step"] = count + 1
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        loss_here = loss_function(closure, evaluate, parameters)
        trials = _Trials(loss_here, evaluate_many if self.candidates == "at_once" else None)
        start = trials.evaluate()
        (before,) = read_numbers([start])
        current, successes, radii, names = before, 0, [], set()
        if math.isfinite(before):
            for turn in range(count * self.rounds, (count + 1) * self.rounds):
                units = self._units_of_turn(turn)
                self._select(units, count, closure)
                for number, unit in units:
                    radii.append(self._radius(unit))
                    names.add(unit.name)
                    current, succeeded = self._search(trials, unit, number, turn, current)
                    self._adapt(unit, succeeded)
                    successes += succeeded
        else:
            for group in self.param_groups:
                group["skipped"] += 1
        if evaluate is None:
            discard_gradients(self.param_groups)
        self.last_step = StepRecord(
            loss_before=before if math.isfinite(before) else float(start),
            loss_after=current if math.isfinite(before) else float(start),
            evaluations=trials.count,
            backtracks=trials.count - 1 - successes,
            step_size=math.fsum(radii) / len(radii) if radii else 0.0,
            slope=math.nan,
            accepted=successes > 0,
            group=names.pop() if len(names) == 1 else None,
        )
        return start

    def _units_of_turn(self, turn: int) -> list[tuple[int, _Unit]]:
        """The units that move in a round, with their numbers among all units."""
        members = trainable(self.param_groups)
        units: dict[Any, _Unit] = {}
        for number, (tensor, group) in enumerate(members):
            place = next(index for index, other in enumerate(self.param_groups) if other is group)
            name = str(group.get("unit") or group.get("name") or f"group {place}")
            if self.units == "tensor":
                shared = sum(other is group for _, other in members) > 1
                units[number] = _Unit(f"{name}, tensor {number}" if shared else name, [(tensor, group)])
            else:
                units.setdefault(name, _Unit(name, [])).members.append((tensor, group))
        # A radius of zero has nothing to try.
        numbered = [each for each in enumerate(units.values()) if self._radius(each[1]) > 0]
        taken = min(self.units_per_round or len(numbered), len(numbered))
        return [numbered[(turn * taken + offset) % len(numbered)] for offset in range(taken)]

    def _round(self, turn: int) -> int:
        """The number of the selection in force."""
        return turn // self.rounds // self.reselect_every

    def _radius(self, unit: _Unit) -> float:
        factor = self.state[unit.tensors[0]].get("radius_factor", 1.0)
        return factor * max(group["lr"] for _, group in unit.members)

    def _adapt(self, unit: _Unit, succeeded: bool) -> None:
        if self.success_rate is None:
            return
        state = self.state[unit.tensors[0]]
        exponent = self.adaptation_rate * (succeeded - self.success_rate)
        state["radius_factor"] = state.get("radius_factor", 1.0) * math.exp(exponent)

    def _select(self, units: Sequence[tuple[int, _Unit]], count: int, closure: Callable[[], Loss] | None) -> None:
        """Chooses anew which entries move, where this is due."""
        if self.selection == "all":
            return
        round_ = count // self.reselect_every
        due = [(number, unit) for number, unit in units if round_ not in self.state[unit.tensors[0]].get("indices", {})]
        if due and self.selection == "fisher":
            if closure is None:
                raise ValueError("selection: fisher needs step(closure=…) for its squared gradients")
            _compute_gradients([tensor for _, unit in due for tensor in unit.tensors], closure)
        for number, unit in due:
            alive = {node[0] for node in _nodes(self.state[unit.tensors[0]].get("tree", []))}
            for place, (tensor, group) in enumerate(unit.members):
                seed = derive_seed(group["seed"], round_, number, _SELECTION, place)
                size = subset_count(tensor.numel(), group["subset_size"])
                past = self.state[tensor].get("indices", {})
                self.state[tensor]["indices"] = {key: past[key] for key in past if key in alive} | {
                    round_: select_entries(tensor, self.selection, size, seed)
                }
        if self.selection == "fisher":
            discard_gradients(self.param_groups)

    def _perturbation(self, unit: _Unit, round_: int, radius: float) -> Perturbation:
        largest = max(group["lr"] for _, group in unit.members)
        return Perturbation(
            unit.tensors,
            [self.state[tensor].get("indices", {}).get(round_) for tensor in unit.tensors],
            # The options of a tree start from a copy in any case.
            copy_limit=self.copy_limit if self.lookahead_width == 1 else sys.maxsize,
            largest_scale=radius,
            noise_device=self.noise_device,
            factors=[group["lr"] / largest if largest > 0 else 0.0 for _, group in unit.members],
        )

    def _moves(self, unit: _Unit, number: int, turn: int, leaf: int) -> list[tuple[int, float]]:
        """Seeds and scales of the candidates around a point: the unit itself, or a leaf of its tree."""
        seed, radius = unit.members[0][1]["seed"], self._radius(unit)
        return [(derive_seed(seed, turn, number, leaf, k), radius * self.shrink**k) for k in range(self.num_radii)]

    def _search(self, trials: _Trials, unit: _Unit, number: int, turn: int, loss: float) -> tuple[float, bool]:
        """Moves a unit; returns the loss where it is then, and whether its objective is lower than before."""
        if self.lookahead_width > 1:
            return self._search_tree(trials, unit, number, turn, loss)
        perturbation = self._perturbation(unit, self._round(turn), self._radius(unit))
        stay = loss + _read_penalty(unit)
        moves = self._moves(unit, number, turn, leaf=0)
        try:
            losses, objectives = trials.of_candidates(perturbation, unit, moves)
        except BaseException:
            perturbation.back()
            raise
        best = min(range(len(moves)), key=objectives.__getitem__)
        if objectives[best] < stay:
            perturbation.move(*moves[best])
            return losses[best], True
        perturbation.back()
        return loss, False

    def _search_tree(self, trials: _Trials, unit: _Unit, number: int, turn: int, loss: float) -> tuple[float, bool]:
        """One step of the lookahead: grows the unit's tree by a level and commits to one of its first options."""
        state = self.state[unit.tensors[0]]
        if "tree" not in state:
            tree: list[_Node] = []
            for _ in range(self.lookahead_levels):
                tree = [[0, 0, 0.0, tree]]
            state["tree"], state["path"] = tree, [0] * self.lookahead_levels
            for tensor in unit.tensors:
                self.state[tensor]["root"] = tensor.clone()
        tree, sitting = state["tree"], state["path"]
        round_ = self._round(turn)
        # The best leaf so far is where the unit is; only what is lower takes its place.
        here = loss + _read_penalty(unit)
        lowest, best_path, best_loss = here, sitting, loss
        grown: dict[tuple[int, ...], list[_Node]] = {}
        for leaf, path in enumerate(_paths(tree)):
            moves = self._moves(unit, number, turn, leaf)
            try:
                self._put(unit, _along(tree, path))
                base_loss, base = (loss, here) if path == sitting else trials.of_present(unit)
                perturbation = self._perturbation(unit, round_, self._radius(unit))
                losses, objectives = trials.of_candidates(perturbation, unit, moves)
            except BaseException:
                self._put(unit, _along(tree, sitting))
                raise
            options = [(base, base_loss, [round_, 0, 0.0, []])]
            options += [
                (objective, candidate_loss, [round_, seed, scale, []])
                for objective, candidate_loss, (seed, scale) in zip(objectives, losses, moves, strict=True)
            ]
            # Stable: on equal terms, staying comes first.
            options.sort(key=lambda option: option[0])
            grown[tuple(path)] = [node for _, _, node in options[: self.lookahead_width]]
            if options[0][0] < lowest:
                lowest, best_loss, best_path = options[0][0], options[0][1], path
        tree = _with_children(tree, grown)
        self._put(unit, _along(tree, best_path[:1]))
        for tensor in unit.tensors:
            self.state[tensor]["root"] = tensor.clone()
        state["tree"], state["path"] = tree[best_path[0]][3], [*best_path[1:], 0]
        self._put(unit, _along(state["tree"], state["path"]))
        return best_loss, lowest < here

    def _put(self, unit: _Unit, nodes: Iterable[_Node]) -> None:
        """Puts a unit at the root of its tree and moves it by some options, in order."""
        for tensor in unit.tensors:
            tensor.copy_(self.state[tensor]["root"])
        for round_, seed, scale, _ in nodes:
            if scale != 0:
                self._perturbation(unit, round_, scale).move(seed, scale)


class _Trials:
    """Losses and objectives of candidates, one after the other or all at once, and how many were asked for."""

    def __init__(self, evaluate: Callable[[], Loss], evaluate_many: EvaluateMany | None) -> None:
        self._evaluate = evaluate
        self._evaluate_many = evaluate_many
        self.count = 0

    def evaluate(self) -> Loss:
        self.count += 1
        return self._evaluate()

    def of_present(self, unit: _Unit) -> tuple[float, float]:
        """Loss and objective where the unit is; infinity where the loss is not finite."""
        loss, penalty = read_numbers([self.evaluate(), _penalty(unit)])
        return loss, loss + penalty

    def of_candidates(
        self, perturbation: Perturbation, unit: _Unit, moves: Sequence[tuple[int, float]]
    ) -> tuple[list[float], list[float]]:
        """Losses and objectives of the candidates; infinity where a loss is not finite."""
        if self._evaluate_many is None:
            losses: list[Loss] = []
            penalties: list[Loss] = []
            for move in moves:
                perturbation.move(*move)
                losses.append(self.evaluate())
                penalties.append(_penalty(unit))
        else:
            stacks = perturbation.candidates(moves)
            shaped = [
                stack.as_strided((len(moves), *tensor.shape), (tensor.numel(), *tensor.stride()))
                for stack, tensor in zip(stacks, unit.tensors, strict=True)
            ]
            losses = [self._evaluate_many(unit.tensors, shaped)]
            penalties = [_penalty(unit, stacks)]
            self.count += len(moves)
        found = read_numbers(losses)
        added = read_numbers(penalties)
        if len(added) < len(found):  # no norm is weighted
            added *= len(found)
        return found, [loss + penalty for loss, penalty in zip(found, added, strict=True)]


def _penalty(unit: _Unit, stacks: Sequence[Tensor] | None = None) -> Loss:
    """The weighted norms of a unit's tensors, or those of several candidates, one in each row of ``stacks``."""
    total: Loss = 0.0
    for place, (tensor, group) in enumerate(unit.members):
        if group["norm_weight"] > 0:
            norm = (
                torch.linalg.vector_norm(tensor) if stacks is None else torch.linalg.vector_norm(stacks[place], dim=1)
            )
            total = total + group["norm_weight"] * norm
    return total


def _read_penalty(unit: _Unit) -> float:
    return read_numbers([_penalty(unit)])[0]


def _compute_gradients(tensors: Sequence[Tensor], closure: Callable[[], Loss]) -> None:
    """Runs the closure with gradients for these tensors, whether or not they are switched off otherwise."""
    required = [tensor.requires_grad for tensor in tensors]
    try:
        for tensor in tensors:
            tensor.requires_grad_(True)
        with torch.enable_grad():
            closure()
    finally:
        for tensor, before in zip(tensors, required, strict=True):
            tensor.requires_grad_(before)


def _nodes(tree: Sequence[_Node]) -> Iterator[_Node]:
    """All nodes of a tree."""
    for node in tree:
        yield node
        yield from _nodes(node[3])


def _paths(tree: Sequence[_Node]) -> Iterator[list[int]]:
    """The leaves of a tree, each as the places of its ancestors and itself among their siblings."""
    for place, node in enumerate(tree):
        if node[3]:
            yield from ([place, *path] for path in _paths(node[3]))
        else:
            yield [place]


def _along(tree: Sequence[_Node], path: Sequence[int]) -> list[_Node]:
    """The nodes on the way to a leaf."""
    nodes = []
    for place in path:
        nodes.append(tree[place])
        tree = tree[place][3]
    return nodes


def _with_children(tree: Sequence[_Node], children: dict[tuple[int, ...], list[_Node]]) -> list[_Node]:
    """A new tree with children at its leaves; the old one may be part of a saved state."""
    grown = []
    for place, (round_, seed, scale, below) in enumerate(tree):
        if below:
            inner = {path[1:]: nodes for path, nodes in children.items() if path[0] == place}
            grown.append([round_, seed, scale, _with_children(below, inner)])
        else:
            grown.append([round_, seed, scale, children[(place,)]])
    return grown
