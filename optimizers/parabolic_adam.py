"""ParabolicAdam: AdamW whose learning rate comes from a few parabolas, and from what batches have in common."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from optimizers.directions import adam
from optimizers.group_update import GroupUpdate
from optimizers.parabolic_line_search import Closure, Evaluate, Line, ParabolicLineSearch, Unit
from optimizers.scalars import gather
from optimizers.searches import PROBE, ParabolaSearch, SearchResult

# A search after k steps is followed by one k / 2 steps later, and after this many at the latest.
_AT_LEAST_EVERY = 40
# The slope is divided in every step that searches, in the first 40 steps and in every fourth of the others.
_ALL_DIVIDED, _DIVIDED_EVERY = 40, 4
# The share of the parabola's minimiser that a search asks for, so that it need not probe far.
_ASKED_SHARE = 0.1
# What the signal is thought to be before anything is measured, and as how many batches that counts: as many as the
# momentum remembers.
_PRIOR_SIGNAL, _PRIOR_BATCHES = 0.15, 10.0
# Where the directions of earlier batches do not descend on new ones, this share of the slope counts as theirs.
_LEAST_SIGNAL = 0.02
# A run of so few steps goes all the way in each of them.
_SHORTEST_RUN = 3
# The share of the run over which the step size rises, as is usual for Adam.
_WARMUP = 0.1
# The height is measured during the first half of the run, and for as many steps at least.
_MEASURED_SHARE = 0.5
_MEASURED_STEPS = 20
_SEARCH_OPTIONS = ("max_trials", "min_step_size", "max_step_size", "relative_tolerance")


class ParabolicAdam(ParabolicLineSearch):
    r"""AdamW that finds its learning rate: nothing to tune, and about the cost of one run of AdamW.

    The step is AdamW's, :math:`x_{k+1} = x_k - \eta_k d_k - \eta_k \lambda x_k` with :math:`d_k = \hat m_k /
    (\sqrt{\hat v_k} + \epsilon)`, and its schedule AdamW's usual one, a warm-up over a tenth of the run's :math:`T`
    steps and a linear fall. The height of the schedule is measured: it is the largest step size so far that Armijo's
    condition accepts on an estimated parabola of the *expected* loss along the step,

    .. math:: \eta_k = \min\left(1, \frac{k}{T / 10}\right) \left(1 - \frac{k - 1}{T}\right) q \,
        \max_{j \le k} r_j \mu_j, \qquad
        q = \max\left(2 (1 - c), \min\left(1, \frac{3}{T}\right)\right) .

    **The reach** :math:`\mu`. A search measures the slope :math:`s = \langle g_k, d_k \rangle` and, with one forward
    pass at a probe :math:`p`, the curvature :math:`a` of the batch's loss :math:`f_k` along the step. The parabola has
    its minimiser at :math:`s / a`; were its minimum a loss of 0, the minimiser would be at :math:`2 f_k / s`, Polyak's
    step. Where the slope happens to be large the one is too far, where it is small the other, and the curvature, which
    the first batches of two runs show differently, counts in the first alone. The reach is their geometric mean:

    .. math:: a = \frac{2 (f_k(x_k - p \, d_k) - f_k(x_k) + s p)}{p^2}, \qquad
        \mu = \exp \overline{\log \sqrt{\frac{s}{a} \cdot \frac{2 f_k(x_k)}{s}}} ,

    the average being over the steps so far, of which each counts with the search that follows it, and by its number, so
    that the later half makes up three quarters. A search after :math:`k` steps is followed by one :math:`k / 2` steps
    later, since curvature changes fast at the start and slowly afterwards, and after 40 steps at the latest. The height
    is measured in the first half of the run (in 20 steps at least), by 9 searches of a run of 80 steps and 22 of one of
    1 000; then it stays. A batch whose loss is not positive has the minimiser alone.

    **The signal** :math:`r`. The batch that the slope is measured on has helped to make the direction, so that the
    slope flatters it. It comes in two parts, by the weight :math:`w = (1 - \beta_1) / (1 - \beta_1^k)` of the present
    gradient in the direction:

    .. math:: s = \underbrace{\Big\langle g_k, \frac{\hat m_k - w g_k}{\sqrt{\hat v_k} + \epsilon}
        \Big\rangle}_{s^\text{earlier}} + \underbrace{w \Big\langle g_k, \frac{g_k}{\sqrt{\hat v_k} + \epsilon}
        \Big\rangle}_{s^\text{present}}, \qquad
        r_k = \frac{10 \cdot 0.15 + \sum_{j \le k} \nu_j \, s^\text{earlier}_j / (1 - w_j)}{10 + \sum_{j \le k} \nu_j \,
        (s^\text{earlier}_j + s^\text{present}_j)}, \quad
        \nu_j = \frac{j / k}{|s^\text{earlier}_j| + s^\text{present}_j} .

    What the present gradient gives descends on its own batch whatever that says about the others. What earlier ones
    give, with a weight of :math:`1 - w`, meets the batch for the first time (in the epoch), and its slope is on average
    that of the expected loss; all of the direction has :math:`1 / (1 - w)` times as much. Slopes go with the square of
    the gradient, which some batches have a hundred times larger than others; with :math:`\nu` every batch counts by its
    number alone. The sums begin with the second step. One batch says little about :math:`r`, and what is expected
    before any, 0.15, counts as much as ten of them; :math:`0.02 \le r \le 1`. So :math:`r \mu` estimates the minimiser
    of the expected loss along the step. Small batches, whose directions agree less, get smaller steps.

    **Why a share of it, and the largest so far.** A step to :math:`r \mu` gains most on the expected loss now. Steps
    that are chosen so are too far while the run has time to take smaller ones, and then shrink too early: what they
    avoid is mostly noise, which the end of the schedule takes out anyway, and where the directions of batches stop
    agreeing for a while they come to a halt (the short-horizon bias of arXiv 1803.02021). So `c` = 0.96 takes 8 % of
    it, and the fall is left to the schedule. A rise is not: the first batches agree on little, on tasks whose loss
    stands still for a while on next to nothing, and once they agree on more the rest of the run may go faster. The
    shorter the run, the larger the share: 15 % in a run of 20 steps, 8 % from 38 steps on.

    **Why it anneals.** Steps along the gradients of batches leave a noise in the parameters that is proportional to
    the step size. No single batch shows it, so that it has to be taken out at the end. `SequenceClassifier` fills in
    the length of the run :math:`T`; for a run whose length is known in seconds, `progress` takes the share of it
    that is done (`callbacks.ScheduleBySeconds` sets it). Where no length is known, there is no schedule, and the height
    follows :math:`r_k \mu_k` down as well as up.

    **Cost.** Between searches the memory of AdamW, and its time but for a pass over gradients and moments in the steps
    that are measured, after 40 of them in every fourth. A search costs a forward pass (the first one two to four) and
    a copy of the parameters.

    Where the slope is not positive, the momentum leads uphill on this batch; that says nothing about the reach,
    and the step is made with the step size in force. A loss or gradient that is not finite leaves the step out; on an
    accelerator, which asking would hold up, the gradient counts as zero there.

    **When more of the model begins to train**, as with gradual unfreezing, a direction through it says nothing about
    the rest: what was measured is forgotten, and the height measured anew in the next 20 steps.

    **Units.** With `update_rule="cycle"` or `"impact"` every unit (the groups with the same `unit`, or `name`) has a
    step size of its own, as in `AdamSLS`.

    **Where it comes from.** The parabola is that of PAL (Mutschler and Zell, arXiv 1903.11991), which moves by it in
    every step. To measure rarely and reuse is LABPAL's (arXiv 2108.13880), on larger batches there. That the next
    gradient judges a direction is the idea of hypergradient descent (arXiv 1703.04782), which multiplies the step
    size by what it finds; here it is a factor, so that a small signal means a small step, not an ever smaller one.
    Polyak's step on batches is that of SPS (Loizou et al., arXiv 2002.10542).

    Args:
        params: Parameters, or groups of them (dicts with `params` and optionally `name`, `unit`, `weight_decay`).
        c: Armijo's constant, between 0 and 1; larger is more careful: 2 (1 - c) of the way to the minimiser, and more
            in runs so short that 3 / T is more.
        total_steps: Optimizer steps of the run. None: unknown; measured throughout, without a schedule.
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
        c: float = 0.96,
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
            most_tensors=0,
            measured_from=0,
            **_nothing_measured(),
            log_reach=0.0,
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
            if group["searches"]:
                group["lr"] = self._step_size(group)
        return super().step(closure, evaluate=evaluate, loss=loss)

    def share(self, c: float) -> float:
        """The share of the way to the expected loss's minimiser that a step makes, but for the schedule."""
        total_steps: float | None = self.total_steps
        if self.progress is not None:
            total_steps = (self._step() - 1) / self.progress if self.progress else None
        return max(2 * (1 - c), min(1.0, _SHORTEST_RUN / total_steps if total_steps else 0.0))

    def schedule(self) -> float:
        """The factor of the present step by its place in the run; 1 where the length of the run is not known."""
        if self.progress is not None:
            done = reached = self.progress
        elif self.total_steps is not None:
            step = min(self._step(), self.total_steps)
            done, reached = (step - 1) / self.total_steps, step / self.total_steps
        else:
            return 1.0
        return min(1.0, reached / _WARMUP) * max(1 - done, 0.0)

    def is_measuring(self, unit: Unit) -> bool:
        """Whether the height is still measured: for half of the run, or always where its length is not known."""
        step = self._step()
        if self._age(unit) <= _MEASURED_STEPS:
            return True
        if self.progress is not None:
            return self.progress <= _MEASURED_SHARE
        return self.total_steps is None or step <= _MEASURED_SHARE * self.total_steps

    def is_due(self, unit: Unit) -> bool:
        """Whether the height is measured, and half as many steps went by since the last search as before it."""
        if not unit["settled"]:
            return True
        wait = min(max(1, unit["searched_at"] // 2), _AT_LEAST_EVERY)
        return self.is_measuring(unit) and unit["steps_since_search"] >= wait

    def first_trial(self, unit: Unit) -> float:
        """Where a search probes: twice as far as the share of the minimiser that it asks for."""
        return PROBE * _ASKED_SHARE * _reach(unit) if unit["searches"] else float(unit["lr"])

    def searched(self, unit: Unit, waited: int) -> None:
        """Note when the unit searched."""
        unit.update(searched_at=unit["searched_at"] + waited)

    def _move(self, units: list[Unit], evaluate: Evaluate, loss: Tensor | float) -> None:  # type: ignore[override]
        """Move, and divide the slope: before a search, which needs it, or after a step that one pass has made."""
        for unit in units:
            self._notice_growth(unit)
        due = [unit for unit in units if self.is_due(unit)]
        for unit in due:
            _divide_slope(unit, self._age(unit))
        super()._move(units, evaluate, loss)
        step = self._step()
        for unit in units:
            is_divided = self._age(unit) <= _ALL_DIVIDED or step % _DIVIDED_EVERY == 0
            if unit not in due and is_divided and self.is_measuring(unit):
                _divide_slope(unit, self._age(unit))

    def _notice_growth(self, unit: Unit) -> None:
        """Forget what was measured when more tensors of the unit move than ever before."""
        tensors = sum(len(part.params) for part in unit.parts)
        if tensors <= unit["most_tensors"]:
            return
        since = self._step() - 1
        unit.update(**_nothing_measured(), measured_from=since, most_tensors=tensors, steps_since_search=1)

    def _step(self) -> int:
        """The number of the present step."""
        return max(group["steps"] for group in self.param_groups)

    def _age(self, unit: Unit) -> int:
        """The number of the present step, counted from where the unit's measurement began."""
        return self._step() - int(unit["measured_from"])

    def _find_step_size(
        self, line: Line, loss_at: Callable[[float], Tensor | float], loss: Tensor | float, step_size: float
    ) -> SearchResult:
        """The step size that the averages come to, with the newest parabola among them."""
        first = line.units[0]
        options = {name: first[name] for name in _SEARCH_OPTIONS} | {"c": 1 - _ASKED_SHARE / 2}
        # On their way while the first trial runs, which waits for the device anyway.
        sums = [unit["slope_sums"].to("cpu", non_blocking=True) for unit in line.units]
        slopes = gather([_divided_slope(part).sum() * factor for part, factor in line.parts])
        result = ParabolaSearch(**options)(loss_at, loss, slopes, step_size)
        if not result.accepted and not (first["searches"] and math.isfinite(result.loss_before + result.slope)):
            return result
        for unit, its_sums in zip(line.units, sums, strict=True):
            age = self._age(unit)
            expected, measured = (total / age for total in its_sums.tolist())
            expected, measured = expected + _PRIOR_BATCHES * _PRIOR_SIGNAL, measured + _PRIOR_BATCHES
            # Directions that lead uphill on more batches than the prior counts as would turn the quotient's sign.
            if measured > 0:
                unit.update(signal=min(max(_LEAST_SIGNAL, expected / measured), 1.0))
            # Uphill, nothing is learnt about the reach.
            if result.accepted:
                newest = age * unit["steps_since_search"]
                weight = unit["weight"] + newest
                newer = math.log(_reach_on_the_batch(result)) - unit["log_reach"]
                unit.update(log_reach=unit["log_reach"] + newer * newest / weight, weight=weight)
            minimiser = unit["signal"] * _reach(unit)
            # Without a schedule nothing else would let the step size fall.
            falls = self.total_steps is None and self.progress is None
            unit.update(minimiser=minimiser if falls else max(unit["minimiser"], minimiser))
        return replace(result, step_size=self._step_size(first), accepted=True)

    def _step_size(self, unit: Unit | dict[str, Any]) -> float:
        return self.schedule() * self.share(unit["c"]) * unit["minimiser"]


def _nothing_measured() -> dict[str, Any]:
    """What a unit remembers of its measurement before there is any."""
    return {
        "searched_at": 0,
        "slope_sums": torch.zeros(2),
        "signal": _PRIOR_SIGNAL,
        "weight": 0.0,
        "minimiser": 0.0,
    }


def _divide_slope(unit: Unit, age: int) -> None:
    """Add to the unit's sums: the slope that the expected loss should have, and the measured one, both scaled.

    A batch counts by its number, `age`.
    """
    slopes = []
    for part in unit.parts:
        part.compute_direction()
        earlier, present = _divided_slope(part).unbind(1)
        beta = part.group["betas"][0]
        power = beta ** torch.stack([state["step"] for state in part.states]).double()
        # A parameter in its first step has no earlier gradients.
        has_past = power < beta
        longer = torch.where(has_past, (1 - power) / (beta - power), 0.0).to(earlier, non_blocking=True)
        counts = has_past.to(earlier, non_blocking=True)
        slopes.append(torch.stack([longer * earlier, counts * earlier, counts * present]).sum(1))
    expected, earlier, present = gather(slopes).view(-1, 3).sum(0)
    # A gradient of zero tells nothing.
    scaled = torch.nan_to_num(torch.stack([expected, earlier + present]) / (earlier.abs() + present), 0.0, 0.0, 0.0)
    # A state that was loaded is wherever it was loaded to.
    unit.update(slope_sums=unit["slope_sums"].to(scaled.device) + age * scaled)


def _divided_slope(part: GroupUpdate) -> Tensor:
    return part.split_slope(1 - part.group["betas"][0])


def _reach_on_the_batch(result: SearchResult) -> float:
    """The geometric mean of the parabola's minimiser, and of where it would be if the loss fell to 0 there."""
    minimiser = result.step_size / _ASKED_SHARE
    if result.loss_before <= 0:
        return minimiser
    return math.sqrt(minimiser * 2 * result.loss_before / result.slope)


def _reach(unit: Unit | dict[str, Any]) -> float:
    """The geometric mean of what the searches found."""
    return math.exp(unit["log_reach"])
