"""Candidates of gradientless descent: the tensors that move to them together, and the objectives there."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from optimizers.gradient_free_step import GradientFreeStep, read_losses
from optimizers.perturbation import Perturbation
from optimizers.shards import is_sharded, local_part, share_of, sum_over_ranks
from optimizers.step_contract import Loss
from optimizers.units import unit_name

UnitKind = Literal["tensor", "group"]
EvaluateMany = Callable[[Sequence[Tensor], Sequence[Tensor]], Tensor]


@dataclass(frozen=True)
class CandidateUnit:
    """Tensors that move together to a candidate.

    A unit lives for one step, within which the groups' radii do not change.

    Args:
        name: The name of the group, or of the tensor's place in it.
        number: The unit's number among all units, which its random draws follow from.
        members: The tensors with their groups; the optimizer's state of the unit is kept with the first tensor.
    """

    name: str
    number: int
    members: list[tuple[Tensor, dict[str, Any]]]

    @cached_property
    def tensors(self) -> list[Tensor]:
        """The tensors without their groups."""
        return [tensor for tensor, _ in self.members]

    @cached_property
    def lr(self) -> float:
        """The largest radius among the groups."""
        return max(group["lr"] for _, group in self.members)

    @cached_property
    def noise_factors(self) -> list[float]:
        """The radius of each tensor as a share of the largest."""
        largest = self.lr
        return [group["lr"] / largest if largest > 0 else 0.0 for _, group in self.members]

    def penalty(self, stacks: Sequence[Tensor] | None = None) -> Loss:
        r"""Return :math:`\sum_p λ_p \lVert p \rVert_2` with the groups' `norm_weight` :math:`λ`; 0.0 where all are 0.

        Args:
            stacks: Values of several candidates to take in place of the tensors' own: per tensor one of shape
                `(candidates, entries)`. The penalties are a vector then.
        """
        total: Loss = 0.0
        for place, (tensor, group) in enumerate(self.members):
            if group["norm_weight"] > 0:
                vector_norm = torch.linalg.vector_norm
                norm = vector_norm(local_part(tensor)) if stacks is None else vector_norm(stacks[place], dim=1)
                if is_sharded(tensor):
                    norm = sum_over_ranks(norm.square() * share_of(tensor)).sqrt()
                total = total + group["norm_weight"] * norm
        return total


def candidate_units(
    members: Sequence[tuple[Tensor, dict[str, Any]]], param_groups: Sequence[dict[str, Any]], kind: UnitKind
) -> list[CandidateUnit]:
    """Divide tensors into the units that move one after the other.

    Args:
        members: The tensors that may move, with their groups.
        param_groups: The optimizer's groups, which units are named after: by their `unit`, `name`, or place.
        kind: `tensor` makes each tensor a unit; `group` the tensors of a group, and of groups with the same `unit`.
    """
    names = {id(group): unit_name(group, place) for place, group in enumerate(param_groups)}
    if kind == "tensor":
        sizes = Counter(id(group) for _, group in members)
        return [
            CandidateUnit(
                names[id(group)] + (f", tensor {number}" if sizes[id(group)] > 1 else ""), number, [(tensor, group)]
            )
            for number, (tensor, group) in enumerate(members)
        ]
    units: dict[str, CandidateUnit] = {}
    for tensor, group in members:
        name = names[id(group)]
        units.setdefault(name, CandidateUnit(name, len(units), [])).members.append((tensor, group))
    return list(units.values())


class Trial(NamedTuple):
    """A point at which the loss was computed, and the move that leads there.

    Args:
        objective: The loss plus the unit's penalty.
        loss: The loss; infinity where it is not finite.
        seed: The seed of the noise that was added.
        scale: What the noise was multiplied by; 0 where the unit stayed.
    """

    objective: float
    loss: float
    seed: int = 0
    scale: float = 0.0


def objective(trial: Trial) -> float:
    """Return the objective of a trial, as a key to sort by."""
    return trial.objective


class Trials:
    """Trials of the candidates of one unit in one step.

    Args:
        step: The step, which computes the loss at the present parameters and counts.
        evaluate_many: Computes the losses of all candidates at once. None: one after the other.

    Attributes:
        any_finite: Whether a move has led to a finite loss so far.
    """

    def __init__(self, step: GradientFreeStep, evaluate_many: EvaluateMany | None) -> None:
        self._step = step
        self._evaluate_many = evaluate_many
        self.any_finite = False

    @property
    def at_once(self) -> bool:
        """Whether all candidates of a unit are evaluated at once, staying among them."""
        return self._evaluate_many is not None

    def of_staying(self, unit: CandidateUnit) -> Trial:
        """Evaluate a unit where it is."""
        loss, penalty = read_losses([self._step.loss(), unit.penalty()])
        return Trial(loss + penalty, loss)

    def of_moves(
        self, perturbation: Perturbation, unit: CandidateUnit, moves: Sequence[tuple[int, float]]
    ) -> tuple[Trial | None, list[Trial]]:
        """Evaluate the candidates at some moves, pairs of seed and scale.

        Candidates at once are computed by other kernels than a single one, whose losses round otherwise: there staying
        is one of them. One after the other, the unit is left at the last.

        Returns:
            Staying, where it was evaluated together with the moves; and the moves.
        """
        losses: list[Loss] = []
        penalties: list[Loss] = []
        if self._evaluate_many is None:
            for move in moves:
                perturbation.move(*move)
                losses.append(self._step.loss())
                penalties.append(unit.penalty())
        else:
            moves = [(0, 0.0), *moves]
            stacks = perturbation.candidates(moves)
            shaped = [
                stack.as_strided((len(moves), *tensor.shape), (tensor.numel(), *tensor.stride()))
                for stack, tensor in zip(stacks, unit.tensors, strict=True)
            ]
            losses.append(self._evaluate_many(unit.tensors, shaped))
            penalties.append(unit.penalty(stacks))
            self._step.evaluations += len(moves)
        read, added = read_losses(losses), read_losses(penalties)
        if len(added) < len(read):  # no norm is weighted
            added *= len(read)
        found = [Trial(loss + extra, loss, *move) for loss, extra, move in zip(read, added, moves, strict=True)]
        stay = None if self._evaluate_many is None else found.pop(0)
        self.any_finite = self.any_finite or any(math.isfinite(trial.loss) for trial in found)
        return stay, found
