"""ParabolicAdam: AdamW whose step size comes from a few parabolas, and from what batches have in common."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from optimizers.armijo import SearchResult
from optimizers.directions import adam
from optimizers.line_search import Closure, Evaluate, Line, LineSearchOptimizer, Unit
from optimizers.moving_group import MovingGroup
from optimizers.parabola import PROBE, parabola_search
from optimizers.scalars import gather

# A search after k steps is followed by one k / 4 steps later, and after this many at the latest.
_AT_LEAST_EVERY = 40
# The slope is divided in every step that searches, in the first 16 steps and in every fourth of the others.
_ALL_DIVIDED, _DIVIDED_EVERY = 16, 4
# How much of the sums of divided slopes is left when one is added.
_KEPT = 0.95
# The weight of the newest minimiser in the average of all.
_NEWEST = 0.3
# The share of the batch's minimiser that a search asks for, so that it need not probe far.
_ASKED_SHARE = 0.1
# Where the directions of earlier batches do not descend on new ones, this share of the slope counts as theirs.
_LEAST_SIGNAL = 0.02
_SEARCH_OPTIONS = ("max_trials", "min_step_size", "max_step_size", "relative_tolerance")


class ParabolicAdam(LineSearchOptimizer):
    r"""AdamW that finds its learning rate: nothing to tune, and about the cost of one run of AdamW.

    The step is AdamW's, :math:`x_{k+1} = x_k - \eta_k d_k - \eta_k \lambda x_k` with :math:`d_k = \hat m_k /
    (\sqrt{\hat v_k} + \epsilon)`. Its step size is what Armijo's condition accepts on a parabola of the *expected*
    loss along the step, and falls towards the end of the run:

    .. math:: \eta_k = \left(1 - \frac{k - 1}{T}\right)^2 \, 2 (1 - c) \, r \, \mu .

    **The minimiser** :math:`\mu`. A search measures the slope :math:`s = \langle g_k, d_k \rangle` and, with one
    forward pass at a probe :math:`p`, the curvature of the batch's loss along the step; the parabola's minimiser is
    :math:`s / a`:

    .. math:: a = \frac{2 (f_k(x_k - p \, d_k) - f_k(x_k) + s p)}{p^2}, \qquad
        \mu = \exp \overline{\log (s / a)} ,

    the average being over searches, with a weight of 0.3 for the newest. A search after :math:`k` steps is followed
    by one :math:`k / 4` steps later, since curvature changes fast at the start and slowly afterwards, and after 40
    steps at the latest: 19 searches in 80 steps, 43 in 1 000.

    **The signal** :math:`r`. The batch that the slope is measured on has helped to make the direction, so that the
    slope flatters it. It comes in two parts: what the present gradient gives to the direction descends on its own
    batch whatever that says about the others; what earlier gradients give meets the batch for the first time (in the
    epoch), and its slope is on average that of the expected loss:

    .. math:: s = \underbrace{\frac{\beta_1}{1 - \beta_1^k} \Big\langle g_k, \frac{m_{k-1}}{\sqrt{\hat v_k} +
        \epsilon} \Big\rangle}_{s^\text{earlier}} +
        \underbrace{\frac{1 - \beta_1}{1 - \beta_1^k} \Big\langle g_k, \frac{g_k}{\sqrt{\hat v_k} +
        \epsilon} \Big\rangle}_{s^\text{present}}, \qquad
        r = \frac{\sum s^\text{earlier}}{\sum s^\text{earlier} + \sum s^\text{present}} ,

    with sums that forget 5 % at each term, and :math:`r \ge 0.02`. So :math:`r \mu` is the minimiser of the expected
    loss along the step, and `c` = 0.75 takes half of it. In the first steps no momentum has proved itself yet, which
    makes a warm-up; small batches, whose directions agree less, get smaller steps; and where all that the batches
    have in common is learnt, steps shrink before they fit the rest.

    **Why it anneals.** Steps along the gradients of batches leave a noise in the parameters that is proportional to
    the step size. No single batch shows it, so that it has to be taken out at the end. `SequenceClassifier` fills in
    the length of the run :math:`T`; for a run whose length is known in seconds, `progress` takes the share of it
    that is done (`callbacks.ScheduleBySeconds` sets it). Where no length is known, nothing falls.

    **Cost.** Between searches the memory of AdamW, and its time but for a pass over gradients and moments in every
    fourth step. A search costs a forward pass (the first one two to four) and a copy of the parameters.

    Where the slope is not positive, the momentum leads uphill on this batch; that says nothing about the minimiser,
    and the step is made with the step size in force. A loss or gradient that is not finite leaves the step out.

    **Units.** With `update_rule="cycle"` or `"impact"` every unit (the groups with the same `unit`, or `name`) has a
    step size of its own, as in `AdamSLS`.

    **Where it comes from.** The parabola is that of PAL (Mutschler and Zell, arXiv 1903.11991), which moves by it in
    every step. To measure rarely and reuse is LABPAL's (arXiv 2108.13880), on larger batches there. That the next
    gradient judges a direction is the idea of hypergradient descent (arXiv 1703.04782), which multiplies the step
    size by what it finds; here it is a factor, so that a small signal means a small step, not an ever smaller one.

    Args:
        params: Parameters, or groups of them (dicts with `params` and optionally `name`, `unit`, `weight_decay`).
        c: The share of the expected decrease that the slope promises which a step has to deliver, between 0 and 1.
            Larger is more careful.
        total_steps: The number of optimizer steps of the run. None: unknown, the step size is not annealed.
        betas: Decay rates of Adam's two averages; the first above 0.
        eps: Added to the root of the second average.
        weight_decay: Decoupled weight decay, as in AdamW (0.01, the default of `torch.optim.AdamW`).
        initial_step_size: Where the first search probes; high rather than low, it only costs trials.
        max_trials: The largest number of trials of one search.
        relative_tolerance: Losses that differ by less than this share count as equal.
        update_rule: "joint" (one step size for the model), "cycle" or "impact", see `AdamSLS`.
        joint_steps: How many searches all units do together before each has its own.

    Raises:
        ValueError: An argument is out of its range; a step gets neither `closure` nor `evaluate`; gradients are sparse.

    Example:
        >>> optimizer = ParabolicAdam(model.parameters(), total_steps=5 * len(loader))
        >>> for batch in loader:
        ...     def closure():
        ...         optimizer.zero_grad()
        ...         loss = model(**batch).loss
        ...         loss.backward()
        ...         return loss
        ...     optimizer.step(closure)
    """

    def __init__(
        self,
        params: ParamsT,
        c: float = 0.75,
        total_steps: int | None = None,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        initial_step_size: float = 0.1,
        max_trials: int = 10,
        relative_tolerance: float = 1e-6,
        update_rule: Literal["joint", "cycle", "impact"] = "joint",
        joint_steps: int = 5,
    ) -> None:
        if total_steps is not None and total_steps < 1:
            raise ValueError(f"total_steps has to be at least 1, or None, got {total_steps!r}")
        if update_rule not in ("joint", "cycle", "impact"):
            raise ValueError(f"update_rule has to be one of joint, cycle, impact, got {update_rule!r}")
        super().__init__(
            params,
            adam,
            initial_step_size=initial_step_size,
            c=c,
            shrink=0.5,
            growth=1.0,
            weight_decay=weight_decay,
            max_trials=max_trials,
            relative_tolerance=relative_tolerance,
            update_rule=update_rule,
            joint_steps=joint_steps,
            betas=tuple(betas),
            eps=eps,
            amsgrad=False,
            steps=0,
            searched_at=0,
            divided_slope=None,
            signal=_LEAST_SIGNAL,
            log_minimiser=0.0,
            weight=0.0,
        )
        if not betas[0]:
            raise ValueError("betas has to begin with a number above 0: without momentum nothing tells batches apart")
        self.total_steps = total_steps
        # The share of the run that is done, set before each step by whoever knows it better than a count of steps.
        self.progress: float | None = None

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"total_steps": self.total_steps, "progress": self.progress}

    @torch.no_grad()
    def step(
        self, closure: Closure | None = None, *, evaluate: Evaluate | None = None, loss: Tensor | float | None = None
    ) -> Any:
        """Make one step; see `LineSearchOptimizer.step`."""
        for group in self.param_groups:
            group["steps"] += 1
            if group["weight"]:
                group["lr"] = self._step_size(group)
        return super().step(closure, evaluate=evaluate, loss=loss)

    def share_left(self) -> float:
        """The share of the run that is left, the present step included; 1 where the length of the run is not known."""
        if self.progress is not None:
            return max(1 - self.progress, 0.0)
        if self.total_steps is None:
            return 1.0
        done = max(group["steps"] for group in self.param_groups) - 1
        return max(1 - done / self.total_steps, 1 / self.total_steps)

    def is_due(self, unit: Unit) -> bool:
        """Whether a quarter as many steps have passed since the last search as before it."""
        return not unit["settled"] or unit["steps_since_search"] >= min(
            max(1, unit["searched_at"] // 4), _AT_LEAST_EVERY
        )

    def first_trial(self, unit: Unit) -> float:
        """Where a search probes: twice as far as the share of the minimiser that it asks for."""
        return PROBE * _ASKED_SHARE * _minimiser(unit) if unit["weight"] else float(unit["lr"])

    def searched(self, unit: Unit, waited: int) -> None:
        """Note when the unit searched."""
        unit.update(searched_at=unit["searched_at"] + waited)

    def _move(self, units: list[Unit], evaluate: Evaluate, loss: Tensor | float) -> None:
        """Move, and divide the slope: before a search, which needs it, or after a step that one pass has made."""
        due = [unit for unit in units if self.is_due(unit)]
        for unit in due:
            _divide_slope(unit)
        super()._move(units, evaluate, loss)
        for unit in units:
            if unit not in due and (unit["steps"] <= _ALL_DIVIDED or unit["steps"] % _DIVIDED_EVERY == 0):
                _divide_slope(unit)

    def _find_step_size(
        self, line: Line, loss_at: Callable[[float], Tensor | float], loss: Tensor | float, step_size: float
    ) -> SearchResult:
        """The step size that the averages come to, with the newest parabola among them."""
        first = line.units[0]
        options = {name: first[name] for name in _SEARCH_OPTIONS} | {"c": 1 - _ASKED_SHARE / 2}
        # On their way while the first trial runs, which waits for the device anyway.
        divided = [
            gather([part.group["divided_slope"] for part in unit.parts]).to("cpu", non_blocking=True)
            for unit in line.units
        ]
        slopes = gather([_divided_slope(part).sum() * factor for part, factor in line.parts])
        result = parabola_search(loss_at, loss, slopes, probe=step_size, **options)
        if not result.accepted and not (first["weight"] and math.isfinite(result.loss_before + result.slope)):
            return result
        for unit, sums in zip(line.units, divided, strict=True):
            earlier, present = sums.view(-1, 2).sum(0).tolist()
            if present > 0:
                unit.update(signal=max(_LEAST_SIGNAL, earlier / (abs(earlier) + present)))
            # Uphill, nothing is learnt about the minimiser.
            if result.accepted:
                log_minimiser = math.log(result.step_size / _ASKED_SHARE)
                unit.update(
                    log_minimiser=(1 - _NEWEST) * unit["log_minimiser"] + _NEWEST * log_minimiser,
                    weight=(1 - _NEWEST) * unit["weight"] + _NEWEST,
                )
        return replace(result, step_size=self._step_size(first), accepted=True)

    def _step_size(self, unit: Unit | dict[str, Any]) -> float:
        return self.share_left() ** 2 * 2 * (1 - unit["c"]) * unit["signal"] * _minimiser(unit)


def _divide_slope(unit: Unit) -> None:
    """Add the parts of the slope to the sums of the unit's groups."""
    for part in unit.parts:
        now, past = _divided_slope(part), part.group["divided_slope"]
        # A state that was loaded is wherever it was loaded to.
        part.group["divided_slope"] = now if past is None else past.to(now.device) * _KEPT + now


def _divided_slope(part: MovingGroup) -> Tensor:
    return part.divided_slope(1 - part.group["betas"][0])


def _minimiser(unit: Unit | dict[str, Any]) -> float:
    """The geometric mean of the minimisers of the parabolas."""
    return math.exp(unit["log_minimiser"] / unit["weight"])
