"""MeZO: descent along one random direction whose slope two losses measure; and its line search."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from optimizers.perturbation import NoiseDevice, Perturbation, derive_seed
from optimizers.searches import ArmijoSearch
from optimizers.step_contract import StepRecord
from optimizers.trial_losses import Loss, discard_gradients, loss_function, read_numbers, trainable

# In units of epsilon.
_LONGEST_MOVE = 1000.0


class MeZO(Optimizer):
    r"""Memory-efficient zeroth-order SGD: two losses and a seed per step.

    Malladi et al., "Fine-Tuning Language Models with Just Forward Passes" (arXiv 2305.17333), Algorithm 1. With
    :math:`z \sim \mathcal{N}(0, I)` over all parameters together

    .. math::

        g = \frac{L(θ + ε z) - L(θ - ε z)}{2 ε}, \qquad θ ← (1 - η λ) θ - η g z

    where :math:`z` is drawn again from its seed each time it is needed, and parameters return from
    :math:`θ ± ε z` bit for bit (see :class:`~optimizers.perturbation.Perturbation`). The seed follows from ``seed`` and
    the number of the step, so that ranks which see the same losses make the same steps. A step whose losses are not
    finite is skipped.

    Args:
        params: Parameters or groups of them.
        lr: :math:`η`. The paper uses 1e-7 to 1e-6 for all parameters of a large model; a head alone takes 1e-3.
        epsilon: :math:`ε`, size of the perturbation. 1e-3 in the paper.
        weight_decay: :math:`λ`, decoupled.
        seed: What all random draws follow from.
        copy_limit: Up to this number of bytes parameters are restored from a copy, beyond it by exact arithmetic.
        noise_device: ``cpu`` draws the same numbers whatever the device; ``parameter`` draws on the parameter's own
            device, faster on accelerators.

    Attributes:
        last_step: What the last step did. ``slope`` is :math:`g^2`; ``loss_after`` is not measured and NaN.
        needs_gradient: ``False``: steps are made of ``evaluate()`` calls.

    Raises:
        ValueError: for an argument out of range.

    Example::

        optimizer = MeZO(model.parameters(), lr=1e-6)
        loss = optimizer.step(evaluate=lambda: loss_function(model(inputs), targets))
    """

    needs_gradient = False

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
        _check_probe(epsilon, copy_limit, noise_device)
        if not 0 <= lr < math.inf:
            raise ValueError(f"lr: {lr} is not allowed; 0 or more")
        if not 0 <= weight_decay < math.inf:
            raise ValueError(f"weight_decay: {weight_decay} is not allowed; 0 or more")
        self.epsilon = epsilon
        self.copy_limit = copy_limit
        self.noise_device = noise_device
        self.last_step: StepRecord | None = None
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "seed": seed, "step": 0, "skipped": 0})

    def __getstate__(self) -> dict[str, Any]:
        names = ("epsilon", "copy_limit", "noise_device", "last_step")
        return super().__getstate__() | {name: getattr(self, name) for name in names}

    @torch.no_grad()
    def step(  # type: ignore[override]
        self,
        closure: Callable[[], Loss] | None = None,
        *,
        evaluate: Callable[[], Loss] | None = None,
        loss: Loss | None = None,
    ) -> Loss:
        """Measures the slope along a random direction and steps down it.

        Args:
            closure: Called in place of ``evaluate`` where that is missing.
            evaluate: Computes the loss of the batch at the present parameters.
            loss: Not used.

        Returns:
            The mean of the two losses, which is the loss at the start up to terms of order ε².
        """
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        loss_here = loss_function(closure, evaluate, parameters)
        members = trainable(self.param_groups)
        seed = _next_seed(self.param_groups)
        perturbation = Perturbation(
            [tensor for tensor, _ in members],
            copy_limit=self.copy_limit,
            largest_scale=self.epsilon,
            noise_device=self.noise_device,
        )
        both = _probe(perturbation, seed, self.epsilon, loss_here)
        plus, minus = read_numbers(both)
        gradient = (plus - minus) / (2 * self.epsilon)
        accepted = math.isfinite(plus) and math.isfinite(minus)
        if accepted:
            perturbation.descend(
                seed,
                [-group["lr"] * gradient for _, group in members],
                [group["lr"] * group["weight_decay"] for _, group in members],
            )
        else:
            perturbation.back()
            _count_skipped(self.param_groups)
        if evaluate is None:
            discard_gradients(self.param_groups)
        self.last_step = StepRecord(
            loss_before=(plus + minus) / 2,
            loss_after=math.nan if accepted else (plus + minus) / 2,
            evaluations=2,
            backtracks=0,
            step_size=self.param_groups[0]["lr"],
            slope=gradient**2,
            accepted=accepted,
        )
        return (both[0] + both[1]) / 2


class LineSearchMeZO(Optimizer):
    r"""MeZO without a learning rate: an Armijo line search along its random direction.

    With :math:`g` and :math:`z` as in :class:`MeZO`, the direction is :math:`-g z` and the loss falls along it at the
    rate :math:`g^2`. The step size :math:`η` is the first of those tried that satisfies

    .. math:: L(θ) - L(θ - η g z) \ge c \, η \, g^2

    The first search comes down from ``step_size`` coarsely; each later one starts at ``growth`` times the step size
    before and comes down by ``shrink``. No trial is longer than :math:`1000 ε z`, beyond which a slope measured over
    :math:`ε z` says little. The parameters stay, bit for bit, where no step size satisfies the condition. A step takes
    three losses and one per trial.

    The defaults of ``c`` and ``growth`` allow for the noise of mini-batches, which the condition does not see: it is
    about one batch :math:`b` along one direction, and admits steps up to :math:`2 (1 - c) / z^⊤ H_b z`. With noise of
    variance :math:`ρ` times the square of its mean in :math:`g`, the loss of all examples falls, on average, for steps
    below :math:`2 / ((1 + ρ)\, z^⊤ H z)` alone. Hence :math:`c = 0.8` bears :math:`ρ < 4`, and :math:`c = 0.5`, the
    minimum along the line, :math:`ρ < 1`. And :math:`z^⊤ H_b z` differs from line to line: a step size that may double
    in every step follows the flattest of them, one that grows slowly stays below the bounds of the last
    :math:`1 / \log_2 γ` steps, with :math:`γ` for ``growth``. With both at the values that suit a fixed objective
    (0.5 and 2), the loss of a head trained on batches of 64 grows without bound.

    Args:
        params: Parameters or groups of them; all move together.
        step_size: First trial of the first search.
        c: Share of the decrease that the slope promises which a step has to deliver. The minimum along the direction of
            a quadratic function delivers 0.5; larger ones stay short of it.
        shrink: What a rejected step size is multiplied by.
        growth: What the step size of the last search is multiplied by, to start the next one from. The default doubles
            it in 700 steps.
        max_trials: Most trials of a search.
        epsilon: :math:`ε`, size of the perturbation that measures the slope. 1e-3 in the paper of MeZO.
        seed: What all random draws follow from.
        copy_limit: Up to this number of bytes parameters are restored from a copy, beyond it by exact arithmetic.
        noise_device: ``cpu`` draws the same numbers whatever the device; ``parameter`` draws on the parameter's own
            device, faster on accelerators.

    Attributes:
        last_step: What the last step did.
        needs_gradient: ``False``: steps are made of ``evaluate()`` calls.

    Raises:
        ValueError: for an argument out of range.

    Example::

        optimizer = LineSearchMeZO(model.parameters())
        loss = optimizer.step(evaluate=lambda: loss_function(model(inputs), targets))
    """

    needs_gradient = False

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
        _check_probe(epsilon, copy_limit, noise_device)
        for argument, value, low, high in (
            ("step_size", step_size, 0, math.inf),
            ("c", c, 0, 1),
            ("shrink", shrink, 0, 1),
        ):
            if not low < value < high:
                raise ValueError(f"{argument}: {value} is not allowed; above {low} and below {high}")
        if not 1 <= growth < math.inf:
            raise ValueError(f"growth: {growth} is not allowed; 1 or more")
        if max_trials < 1:
            raise ValueError(f"max_trials: {max_trials} is not allowed; 1 or more")
        self.c = c
        self.shrink = shrink
        self.growth = growth
        self.max_trials = max_trials
        self.epsilon = epsilon
        self.copy_limit = copy_limit
        self.noise_device = noise_device
        self.last_step: StepRecord | None = None
        super().__init__(params, {"lr": step_size, "seed": seed, "step": 0, "skipped": 0, "searches": 0})

    def __getstate__(self) -> dict[str, Any]:
        names = ("c", "shrink", "growth", "max_trials", "epsilon", "copy_limit", "noise_device", "last_step")
        return super().__getstate__() | {name: getattr(self, name) for name in names}

    @torch.no_grad()
    def step(  # type: ignore[override]
        self,
        closure: Callable[[], Loss] | None = None,
        *,
        evaluate: Callable[[], Loss] | None = None,
        loss: Loss | None = None,
    ) -> Loss:
        """Measures the slope along a random direction and searches a step size down it.

        Args:
            closure: Called in place of ``evaluate`` where that is missing.
            evaluate: Computes the loss of the batch at the present parameters.
            loss: Not used: the loss at the start is evaluated.

        Returns:
            The loss at the start of the step.
        """
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        loss_here = loss_function(closure, evaluate, parameters)
        tensors = [tensor for tensor, _ in trainable(self.param_groups)]
        group = self.param_groups[0]
        seed = _next_seed(self.param_groups)

        def perturbation_up_to(scale: float) -> Perturbation:
            return Perturbation(
                tensors, copy_limit=self.copy_limit, largest_scale=scale, noise_device=self.noise_device
            )

        perturbation = perturbation_up_to(self.epsilon)
        start = loss_here()
        before, plus, minus = read_numbers([start, *_probe(perturbation, seed, self.epsilon, loss_here)])
        perturbation.back()
        gradient = (plus - minus) / (2 * self.epsilon)
        evaluations, backtracks, after, accepted = 3, 0, before, False
        if math.isfinite(before + gradient):
            is_first = group["searches"] == 0
            longest = _LONGEST_MOVE * self.epsilon / max(abs(gradient), math.ulp(0.0))
            eta = min(group["lr"] if is_first else group["lr"] * self.growth, longest)
            perturbation = perturbation_up_to(eta * abs(gradient))

            search = ArmijoSearch(
                c=self.c,
                shrink=self.shrink,
                bracket=0.1 if is_first else None,
                max_trials=self.max_trials,
                min_step_size=0.0,
                max_step_size=math.inf,
            )

            def loss_at(eta: float) -> Loss:
                perturbation.move(seed, -eta * gradient)
                return loss_here()

            try:
                found = search(loss_at, before, gradient**2, eta)
            except BaseException:
                perturbation.back()
                raise
            evaluations += found.trials
            backtracks, after, accepted = found.backtracks, found.loss, found.accepted
            if accepted:
                perturbation.move(seed, -found.step_size * gradient)
            else:
                perturbation.back()
            for each in self.param_groups:
                # A search that failed keeps its start, and the next one is not to start beyond that.
                each["lr"] = found.step_size if accepted else found.step_size / (1 if is_first else self.growth)
                each["searches"] += accepted
        else:
            _count_skipped(self.param_groups)
        if evaluate is None:
            discard_gradients(self.param_groups)
        self.last_step = StepRecord(
            loss_before=before,
            loss_after=after,
            evaluations=evaluations,
            backtracks=backtracks,
            step_size=group["lr"],
            slope=gradient**2,
            accepted=accepted,
        )
        return start


def _check_probe(epsilon: float, copy_limit: int, noise_device: str) -> None:
    if not 0 < epsilon < math.inf:
        raise ValueError(f"epsilon: {epsilon} is not allowed; above 0")
    if copy_limit < 0:
        raise ValueError(f"copy_limit: {copy_limit} is not allowed; 0 or more bytes")
    if noise_device not in ("cpu", "parameter"):
        raise ValueError(f"noise_device: {noise_device!r} is not allowed; one of cpu, parameter")


def _next_seed(param_groups: list[dict[str, Any]]) -> int:
    """The seed of this step's direction; counts the step."""
    seed = derive_seed(param_groups[0]["seed"], param_groups[0]["step"])
    for group in param_groups:
        group["step"] += 1
    return seed


def _count_skipped(param_groups: list[dict[str, Any]]) -> None:
    for group in param_groups:
        group["skipped"] += 1


def _probe(perturbation: Perturbation, seed: int, epsilon: float, loss_here: Callable[[], Loss]) -> list[Loss]:
    """The losses at +ε z and at -ε z; the parameters are left at the latter."""
    try:
        perturbation.move(seed, epsilon)
        plus = loss_here()
        perturbation.move(seed, -epsilon)
        return [plus, loss_here()]
    except BaseException:
        perturbation.back()
        raise
