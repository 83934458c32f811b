"""SaLSA: a smoothed Armijo line search that runs only as often as the step size changes."""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

from torch.optim.optimizer import ParamsT

from optimizers.directions import DirectionFunction, adam
from optimizers.line_search import (
    Condition,
    LineSearchOptimizer,
    Momentum,
    Reset,
    Unit,
    UpdateRule,
    heavy_ball_momentum,
)

Cadence = Literal["drift", "ratio", "always"]

# The first so many searches come in a row; afterwards one comes at least every so many steps.
_EVERY_STEP = 10
_FAST, _SLOW = 0.9, 0.99


class SaLSA(LineSearchOptimizer):
    r"""Stable Armijo line search adaptation: a smoothed condition, checked only as often as the step size changes.

    The method of "No learning rates needed: Introducing SALSA" (arXiv 2407.20650). With Adam's bias-corrected moments
    :math:`\hat m_k, \hat v_k` of the gradient :math:`g_k` and the trial direction
    :math:`p_k = g_k / (\sqrt{\hat v_k} + \epsilon)`, a search accepts the largest
    :math:`\eta \in \{\eta_0, \eta_0 \delta, \eta_0 \delta^2, \dots\}` with

    .. math::
        h_k &= \beta h_{k-1} + (1 - \beta) \, (f_k(x_k) - f_k(x_k - \eta p_k)) \\
        s_k &= \beta s_{k-1} + (1 - \beta) \, \langle g_k, p_k \rangle \\
        h_k &\ge c \, \eta \, s_k

    and every step, searched or not, is :math:`x_{k+1} = x_k - \eta \, \hat m_k / (\sqrt{\hat v_k} + \epsilon) - \eta
    \lambda x_k`. A search starts from :math:`\eta_0 = \gamma \eta`. The first ten steps all search; afterwards the next
    search comes when the step size is expected to have moved by more than the search resolves, and after ten steps at
    the latest:

    .. math:: L = \min\left(10, \frac{-\log \delta}{|d|}\right) \text{ steps later, }
        d = \frac{\overline{\log \eta}_{0.9} - \overline{\log \eta}_{0.99}}{a_{0.99} - a_{0.9}}

    The drift :math:`d` per step is read off a fast and a slow exponential average of the logarithm of the step size
    over steps, whose values are on average :math:`a_{0.9}` and :math:`a_{0.99}` steps old. :math:`c` is `c`,
    :math:`\delta` is `shrink`, :math:`\gamma` is `growth`, :math:`\beta` is `smoothing`, :math:`\lambda` is
    `weight_decay`. A step without a search costs what a step of AdamW costs, in time and in memory.

    Units, `condition` and failed searches are those of `AdamSLS`; a unit that is not due does not search. With
    `direction=optimizers.sgd` the same search runs along the gradient. A step is then as long as the gradient, and the
    step size of a flat batch throws the parameters far out on a steep one: take `cadence="always"` along the gradient.

    **What differs from the published package** (SaLSa-Optimizer 0.1.0). It corrects the bias of the moments with
    the step's number plus one. It reseeds the global generators with the second that the clock shows, so that all steps
    within a second draw the same dropout masks. Its steps between two searches move by :math:`\gamma \eta`, which no
    search has tried. By default (`use_mv=False`) a step that searches keeps its last trial, which has no momentum, and
    a step that does not search moves with momentum. Its two averages of the step size start at 1e-8 and are
    compared uncorrected, so that even a constant step size is searched for 240 times before the searches thin out; here
    both are corrected for their start. It comes down from 1 by factors of 0.8 (more than 30 forward passes); here
    `bracket` does it.

    **What differs from the paper.** Its next search comes :math:`\min(10, 1 / (r - 1))` steps later, with :math:`r`
    the ratio, 1 or more, of two averages of the step size over searches (`cadence="ratio"`). These lie 90 searches
    apart, so that the slow falling of the step size that goes with a decaying loss asks for a search in nearly every
    step; the drift is measured per step and compared with what a search can tell.

    Args:
        params: Parameters, or groups of them (dicts with `params` and optionally `name`, `unit`, `weight_decay`, `lr`).
        initial_step_size: Where the first search starts; high rather than low, it only costs trials (1 in the package).
        c: The share of the decrease that the slope promises which a step has to deliver, between 0 and 1 (0.5 in the
            paper). Larger is more careful.
        shrink: What a rejected step size is multiplied by, between 0 and 1 (0.8 in the package).
        growth: By how much the step size may grow from search to search, at least 1 (1.1 in the package).
        smoothing: The weight of the past in both sides of the condition, at least 0 and below 1 (0.9 in the paper).
        betas: Decay rates of Adam's (or Lion's) two averages.
        eps: Added to the root of Adam's second average.
        weight_decay: Decoupled weight decay, as in AdamW: the step size times this share of each weight is taken off.
        amsgrad: Whether to divide by the largest second average so far.
        direction: What the step size multiplies: `optimizers.adam`, `optimizers.sgd`, `optimizers.lion`, or a function
            of your own with their signature.
        momentum: "standard" (the direction's own) or "heavy_ball" (the last step's displacement, times `betas[0]`).
        condition: "gradient" (trials without momentum, as in the paper) or "momentum" (trials along the step itself;
            `use_mv=True` in the package).
        cadence: When a step searches: as the "drift" of the step size asks for, as the paper's "ratio" does, or
            "always".
        reset: Where a search starts: at the last step size ("keep"), at `growth` times it ("grow", the package's) or at
            `initial_step_size` ("restart").
        bracket: The coarser factor that a search comes down by at first, and later after three rejections; it then
            closes in to within one `shrink`. None: by `shrink` alone.
        max_trials: The largest number of trials of one search.
        min_step_size: No smaller step size is tried.
        max_step_size: No larger step size is tried.
        relative_tolerance: Losses that differ by less than this share count as equal. 1e-6 suits losses computed in
            float32; under autocast to bfloat16, 1e-4 or more.
        update_rule: "joint" (one step size for the model), "cycle", "all" or "impact", see `AdamSLS`.
        joint_steps: How many searches all units do together before each has its own.
        merge_threshold: A unit whose step size falls below this joins its neighbour; None never merges.

    Raises:
        ValueError: An argument is out of its range; a step gets neither `closure` nor `evaluate`; gradients are sparse.

    Example:
        >>> optimizer = SaLSA(model.parameters(), weight_decay=0.01)
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
        initial_step_size: float = 1.0,
        c: float = 0.5,
        shrink: float = 0.8,
        growth: float = 1.1,
        smoothing: float = 0.9,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        direction: DirectionFunction = adam,
        momentum: Momentum = "standard",
        condition: Condition = "gradient",
        cadence: Cadence = "drift",
        reset: Reset = "grow",
        bracket: float | None = 0.2,
        max_trials: int = 30,
        min_step_size: float = 1e-10,
        max_step_size: float = 10.0,
        relative_tolerance: float = 1e-6,
        update_rule: UpdateRule = "joint",
        joint_steps: int = 5,
        merge_threshold: float | None = None,
    ) -> None:
        if cadence not in get_args(Cadence):
            raise ValueError(f"cadence has to be one of {', '.join(get_args(Cadence))}, got {cadence!r}")
        super().__init__(
            params,
            direction,
            initial_step_size=initial_step_size,
            c=c,
            shrink=shrink,
            growth=growth,
            steps_per_epoch=1,
            smoothing=smoothing,
            weight_decay=weight_decay,
            heavy_ball=heavy_ball_momentum(momentum, betas),
            condition=condition,
            reset=reset,
            bracket=bracket,
            max_trials=max_trials,
            min_step_size=min_step_size,
            max_step_size=max_step_size,
            relative_tolerance=relative_tolerance,
            update_rule=update_rule,
            joint_steps=joint_steps,
            merge_threshold=merge_threshold,
            betas=tuple(betas),
            eps=eps,
            amsgrad=amsgrad,
            average_fast=0.0,
            average_slow=0.0,
            averaged=0,
        )
        self.cadence = cadence

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"cadence": self.cadence}

    def interval(self, unit: Unit | dict[str, Any]) -> float:
        """How many steps may pass from one search of a unit, or of a group's unit, to the next."""
        if self.cadence == "always" or unit["searches"] < _EVERY_STEP:
            return 1.0
        count = unit["averaged"]
        fast, slow = unit["average_fast"] / (1 - _FAST**count), unit["average_slow"] / (1 - _SLOW**count)
        if self.cadence == "ratio":
            change, allowed = max(fast, slow) / min(fast, slow) - 1, 1.0
        else:
            change = abs(fast - slow) / (_mean_age(_SLOW, count) - _mean_age(_FAST, count))
            allowed = -math.log(unit["shrink"])
        return min(float(_EVERY_STEP), allowed / change) if change else float(_EVERY_STEP)

    def is_due(self, unit: Unit) -> bool:
        """Whether as many steps have passed as the change of the step size allows."""
        return bool(unit["steps_since_search"] >= self.interval(unit))

    def first_trial(self, unit: Unit) -> float:
        """The step size that a search of this unit starts from, by the reset rule; growth is per search."""
        if self.reset == "grow" and unit["settled"]:
            return float(unit["lr"] * unit["growth"])
        return super().first_trial(unit)

    def searched(self, unit: Unit, waited: int) -> None:
        """Average the step size, fast and slow: its logarithm over steps, or as in the paper itself over searches."""
        value, count = (unit["lr"], 1) if self.cadence == "ratio" else (math.log(unit["lr"]), waited)
        fast, slow = _FAST**count, _SLOW**count
        unit.update(
            average_fast=fast * unit["average_fast"] + (1 - fast) * value,
            average_slow=slow * unit["average_slow"] + (1 - slow) * value,
            averaged=unit["averaged"] + count,
        )


def _mean_age(beta: float, count: int) -> float:
    """How old the values in an exponential average are, on average, after so many of them; the last one is 0 old."""
    return beta / (1 - beta) - count * beta**count / (1 - beta**count)
