"""MeZO: steps down the slope that two losses measure along a random direction, and a line search for their size."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from optimizers.checks import require, require_integer, require_one_of
from optimizers.gradient_free_step import GradientFreeStep, read_losses
from optimizers.perturbation import NoiseDevice, Perturbation, derive_seed
from optimizers.searches import ArmijoSearch, SearchResult
from optimizers.set_step_sizes import finds_step_sizes
from optimizers.shards import asks_for_state
from optimizers.step_contract import Closure, Evaluate, Loss, StepRecord

# In units of epsilon; beyond it a slope measured over epsilon says little.
_LONGEST_MOVE = 1000.0


class _RandomDirection(Optimizer):
    r"""Base of optimizers that move along one random direction per step, drawn again from a seed whenever needed.

    Args:
        params: Parameters or groups.
        defaults: Options of the groups; `seed`, which all random draws follow from, is one of them.
        epsilon: How far from the parameters, along the direction, losses are measured.
        copy_limit: Up to this number of bytes parameters are restored from a copy, beyond it by exact arithmetic; in
            half precision always from a copy.
        noise_device: Where noise is drawn.
    """

    needs_gradient = False
    # Attributes that are kept when the optimizer is pickled.
    _settings: ClassVar[tuple[str, ...]] = ("epsilon", "copy_limit", "noise_device", "last_step")

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        defaults: dict[str, Any],
        epsilon: float,
        copy_limit: int,
        noise_device: NoiseDevice,
    ) -> None:
        require(0 < epsilon < math.inf, "epsilon", epsilon, "above 0")
        require(copy_limit >= 0, "copy_limit", copy_limit, "at least 0 bytes")
        require_one_of("noise_device", noise_device, ("cpu", "parameter"))
        require_integer("seed", defaults["seed"])
        self.epsilon = epsilon
        self.copy_limit = copy_limit
        self.noise_device: NoiseDevice = noise_device
        self.last_step: StepRecord | None = None
        super().__init__(params, {**defaults, "step": 0, "skipped": 0})

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {name: getattr(self, name) for name in self._settings}

    def _direction_seed(self, step: GradientFreeStep) -> int:
        """Return the seed of this step's direction; ranks that see the same losses make the same steps."""
        return derive_seed(self.param_groups[0]["seed"], step.number)

    def _perturbation(self, step: GradientFreeStep, largest_scale: float) -> Perturbation:
        return Perturbation(
            [tensor for tensor, _ in step.members],
            copy_limit=self.copy_limit,
            largest_scale=largest_scale,
            noise_device=self.noise_device,
        )

    def _probe(self, step: GradientFreeStep, perturbation: Perturbation, seed: int) -> tuple[Loss, Loss]:
        """Return the losses at +ε z and at -ε z; the parameters are left at the latter."""
        try:
            perturbation.move(seed, self.epsilon)
            plus = step.loss()
            perturbation.move(seed, -self.epsilon)
            return plus, step.loss()
        except BaseException:
            perturbation.back()
            raise

    def _finish(
        self,
        step: GradientFreeStep,
        before: float,
        after: float,
        derivative: float,
        backtracks: int,
        accepted: bool,
        any_finite: bool = True,
    ) -> None:
        """Record the step; one whose losses, or all of its trials, were not finite counts as skipped."""
        step.finish(skipped=not (any_finite and math.isfinite(before + derivative)))
        self.last_step = StepRecord(
            loss_before=before,
            loss_after=after,
            evaluations=step.evaluations,
            backtracks=backtracks,
            step_size=self.param_groups[0]["lr"],
            slope=derivative**2,
            accepted=accepted,
        )


class MeZO(_RandomDirection):
    r"""Memory-efficient zeroth-order SGD: two losses and a seed per step.

    Malladi et al., "Fine-Tuning Language Models with Just Forward Passes" (arXiv 2305.17333), Algorithm 1. With
    :math:`z \sim \mathcal{N}(0, I)` over all parameters together

    .. math::

        g = \frac{L(θ + ε z) - L(θ - ε z)}{2 ε}, \qquad θ ← (1 - η λ) θ - η g z

    where :math:`z` is drawn again from a seed each time it is needed, and parameters return from :math:`θ ± ε z` bit
    for bit (`Perturbation`). A step whose losses are not finite is skipped. In `last_step`, `slope` is :math:`g^2`, and
    `loss_after` is NaN, since it is not measured.

    Args:
        params: Parameters or groups.
        lr: :math:`η`. The paper uses 1e-7 to 1e-6 for all parameters of a large model; a head alone takes 1e-3.
        epsilon: :math:`ε`, the size of the perturbation. 1e-3 in the paper.
        weight_decay: :math:`λ`, decoupled.
        seed: What all random draws follow from.
        copy_limit: Up to this number of bytes parameters are restored from a copy, beyond it by exact arithmetic; in
            half precision always from a copy.
        noise_device: `cpu` draws the same numbers whatever the device; `parameter` draws on the parameter's own device,
            faster on accelerators.

    Raises:
        ValueError: An argument is out of range; a parameter is complex.

    Example::

        optimizer = MeZO(model.parameters(), lr=1e-6)
        loss = optimizer.step(evaluate=lambda: loss_function(model(inputs), targets))
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-6,
        epsilon: float = 1e-3,
        weight_decay: float = 0.0,
        *,
        seed: int = 0,
        copy_limit: int = 2**22,
        noise_device: NoiseDevice = "cpu",
    ) -> None:
        require(0 <= lr < math.inf, "lr", lr, "at least 0")
        require(0 <= weight_decay < math.inf, "weight_decay", weight_decay, "at least 0")
        defaults = {"lr": lr, "weight_decay": weight_decay, "seed": seed}
        super().__init__(params, defaults, epsilon, copy_limit, noise_device)

    @torch.no_grad()
    def step(  # type: ignore[override]
        self, closure: Closure | None = None, *, evaluate: Evaluate | None = None, loss: Loss | None = None
    ) -> Loss:
        """Measure the slope along a random direction and step down it.

        Args:
            closure: Called in place of `evaluate` where that is missing.
            evaluate: Computes the loss of the batch at the present parameters.
            loss: Not used.

        Returns:
            The mean of the two losses, which is the loss at the start up to terms of order ε².
        """
        if asks_for_state(self.param_groups, closure, evaluate, loss):
            return math.nan
        step = GradientFreeStep(self, closure, evaluate)
        seed = self._direction_seed(step)
        perturbation = self._perturbation(step, self.epsilon)
        losses = self._probe(step, perturbation, seed)
        plus, minus = read_losses(losses)
        mean, derivative = (plus + minus) / 2, (plus - minus) / (2 * self.epsilon)
        moves = math.isfinite(mean + derivative)
        if moves:
            perturbation.descend(
                seed,
                [-group["lr"] * derivative for _, group in step.members],
                [group["lr"] * group["weight_decay"] for _, group in step.members],
            )
        else:
            perturbation.back()
        self._finish(step, mean, math.nan if moves else mean, derivative, backtracks=0, accepted=moves)
        return (losses[0] + losses[1]) / 2


class LineSearchMeZO(_RandomDirection):
    r"""MeZO without a learning rate: an Armijo line search along its random direction.

    With :math:`g` and :math:`z` as in `MeZO`, the direction is :math:`-g z`, and the loss falls along it at the rate
    :math:`g^2`. The step size :math:`η` is the first of those tried that satisfies

    .. math:: L(θ) - L(θ - η g z) \ge c \, η \, g^2

    The first search comes down from `step_size` by factors of 10 and closes in; each later one starts at `growth` times
    the step size before and comes down by `shrink`. No trial is longer than :math:`1000 ε z`. Where no step size
    satisfies the condition, the parameters stay, bit for bit. A step takes three losses and one per trial.
    docs/gradient_free.md explains the defaults of `c` and `growth`, which allow for the noise of mini-batches.

    Args:
        params: Parameters or groups; all move together.
        step_size: The first trial of the first search. The step size in force is the groups' `lr`.
        c: The share of the decrease predicted by the slope that a step has to reach, in (0, 1). The minimum along
            the direction of a quadratic function delivers 0.5; larger values stay short of it.
        shrink: What a rejected step size is multiplied by, in (0, 1).
        growth: What the step size of the last search is multiplied by, to start the next one from; 1 or more. The
            default doubles it in 700 steps.
        max_trials: The largest number of trials of a search.
        epsilon: :math:`ε`, the size of the perturbation that measures the slope. 1e-3 in the paper of MeZO.
        seed: What all random draws follow from.
        copy_limit: Up to this number of bytes parameters are restored from a copy, beyond it by exact arithmetic; in
            half precision always from a copy.
        noise_device: `cpu` draws the same numbers whatever the device; `parameter` draws on the parameter's own device,
            faster on accelerators.

    Raises:
        ValueError: An argument is out of range; a parameter is complex.

    Example::

        optimizer = LineSearchMeZO(model.parameters())
        loss = optimizer.step(evaluate=lambda: loss_function(model(inputs), targets))
    """

    sets_step_size = True
    _settings = (*_RandomDirection._settings, "c", "shrink", "growth", "max_trials")

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        step_size: float = 1.0,
        c: float = 0.8,
        shrink: float = 0.5,
        growth: float = 1.001,
        max_trials: int = 20,
        epsilon: float = 1e-3,
        *,
        seed: int = 0,
        copy_limit: int = 2**22,
        noise_device: NoiseDevice = "cpu",
    ) -> None:
        require(0 < step_size < math.inf, "step_size", step_size, "above 0")
        require(0 < c < 1, "c", c, "between 0 and 1")
        require(0 < shrink < 1, "shrink", shrink, "between 0 and 1")
        require(1 <= growth < math.inf, "growth", growth, "at least 1")
        require_integer("max_trials", max_trials, 1)
        self.c = c
        self.shrink = shrink
        self.growth = growth
        self.max_trials = max_trials
        defaults = {"lr": step_size, "seed": seed, "searches": 0}
        super().__init__(params, defaults, epsilon, copy_limit, noise_device)

    @finds_step_sizes
    @torch.no_grad()
    def step(  # type: ignore[override]
        self, closure: Closure | None = None, *, evaluate: Evaluate | None = None, loss: Loss | None = None
    ) -> Loss:
        """Measure the slope along a random direction and search a step size down it.

        Args:
            closure: Called in place of `evaluate` where that is missing.
            evaluate: Computes the loss of the batch at the present parameters.
            loss: Not used: the loss at the start is evaluated.

        Returns:
            The loss at the start of the step.
        """
        if asks_for_state(self.param_groups, closure, evaluate, loss):
            return math.nan
        step = GradientFreeStep(self, closure, evaluate)
        seed = self._direction_seed(step)
        perturbation = self._perturbation(step, self.epsilon)
        start = step.loss()
        before, plus, minus = read_losses([start, *self._probe(step, perturbation, seed)])
        perturbation.back()
        del perturbation  # with its copy of parameters in half precision: the search makes one of its own
        derivative = (plus - minus) / (2 * self.epsilon)
        if math.isfinite(before + derivative):
            found = self._search(step, seed, before, derivative)
            any_finite = found.failure != "not finite"
            self._finish(step, before, found.loss, derivative, found.backtracks, found.accepted, any_finite)
        else:
            self._finish(step, before, before, derivative, backtracks=0, accepted=False)
        return start

    def _search(self, step: GradientFreeStep, seed: int, before: float, derivative: float) -> SearchResult:
        """Move by the step size that a search finds, or stay."""
        last, is_first = self.param_groups[0]["lr"], self.param_groups[0]["searches"] == 0
        longest = _LONGEST_MOVE * self.epsilon / max(abs(derivative), math.ulp(0.0))
        first_trial = min(last if is_first else last * self.growth, longest)
        perturbation = self._perturbation(step, first_trial * abs(derivative))

        def loss_at(step_size: float) -> Loss:
            perturbation.move(seed, -step_size * derivative)
            return step.loss()

        search = ArmijoSearch(
            c=self.c,
            shrink=self.shrink,
            bracket=0.1 if is_first else None,
            patience=0,
            max_trials=self.max_trials,
            min_step_size=0.0,
            max_step_size=math.inf,
        )
        try:
            found = search(loss_at, before, derivative**2, first_trial)
        except BaseException:
            perturbation.back()
            raise
        if found.accepted:
            perturbation.move(seed, -found.step_size * derivative)
        else:
            perturbation.back()
        if found.failure != "not finite":  # otherwise losses tell nothing about step sizes
            for group in self.param_groups:
                # A search that failed keeps its start, and the next one is not to start beyond that.
                group["lr"] = found.step_size if found.accepted or is_first else found.step_size / self.growth
                group["searches"] += found.accepted
        return found
