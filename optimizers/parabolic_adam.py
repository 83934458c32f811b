"""ParabolicAdam: AdamW with warm-up and linear decay whose peak learning rate is measured during the run."""

from __future__ import annotations

import math
import warnings
from dataclasses import fields, replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from optimizers.anchored_optimizer import AnchoredOptimizer
from optimizers.checks import require, require_integer
from optimizers.directions import adam
from optimizers.failed_searches import MANY_FAILURES, warn_of_failures
from optimizers.group_update import GroupUpdate, over_ranks
from optimizers.line import Line
from optimizers.parabola import LARGEST_PROBE, LEAST_PROBE, measure_parabola
from optimizers.peak_rate import PeakRate, PeakRateState
from optimizers.relative_change import LEAST_CHANGE, rate_of_whole_change
from optimizers.scalars import gather
from optimizers.set_step_sizes import finds_step_sizes
from optimizers.slopes import split_slope
from optimizers.step_contract import Closure, Evaluate, Loss, StepRecord, UnitReport, as_loss
from optimizers.step_start import start_step
from optimizers.unread_record import UnreadRecord, unread_record
from optimizers.warmup_and_decay import decay_factor, warmup_factor

# The share of the run over which the learning rate rises, as is usual for Adam.
_WARMUP = 0.1
# The weight of the past in the averages over searches that monitors show.
_SMOOTHING = 0.9
_STATE = tuple(field.name for field in fields(PeakRateState))
# Options that are read of the first group alone.
_OF_ALL_GROUPS = ("lr", "peak_fraction", "initial_step_size", "max_trials", "relative_tolerance", "least_change")
_COUNTERS = ("searches", "failures", "trials", "backtracks", "skipped")


class ParabolicAdam(AnchoredOptimizer):
    r"""AdamW with warm-up and linear decay whose peak learning rate is measured: nothing to tune.

    .. math:: x_{k+1} = x_k - \eta_k (d_k + \lambda x_k), \qquad
        \eta_k = \min\left(1, \tfrac{k}{T / 10}\right) \left(1 - \tfrac{k - 1}{T}\right)
        q \max\left(\frac{l}{q_0}, \max_{j \le k} r_j \exp \overline{\log \sqrt{2 f_j / a_j}}\right) .

    :math:`d_k = \hat m_k / (\sqrt{\hat v_k} + \epsilon)` is Adam's direction, :math:`f` the loss of a batch and
    :math:`a` its curvature along the step, which a forward pass at a probe measures now and then.
    :math:`\sqrt{2 f / a}` is the geometric mean of two estimates of the minimiser along the step: that of the parabola,
    :math:`s / a`, and Polyak's step, :math:`2 f / s`. The slope :math:`s = \langle g_k, d_k \rangle`, which is noisy,
    cancels out. The gradient agreement :math:`r` is the share of the slope that the momentum's older gradients explain:
    what a batch has in common with others. Both are measured in the first half of the run, by the constants of
    `PeakRate`, and anew where more tensors begin to train. docs/parabolic_adam.md has the derivation.

    A step whose loss or gradient is not finite is left out; on an accelerator its gradient counts as zero instead.
    A search copies the parameters. Where nothing reads gradients after a step, set the attribute `keeps_gradients` to
    False: a search then frees them first, and needs no more memory than a step of AdamW.

    Args:
        params: Parameters, or groups of them (dicts with `params` and optionally `name`, `lr_factor`, `weight_decay`,
            `anchor_decay`); all share one learning rate, times their `lr_factor`.
        peak_fraction: :math:`q_0`, the share :math:`q` of the way to the minimiser of the expected loss that the peak
            is, above 0 and below 2; runs of T < 13 / q_0 steps take 13 / T, half of the way at most.
        total_steps: :math:`T`, optimizer steps of the run. None: unknown; no schedule, and the rate is measured
            throughout. The attribute `progress` (0 to 1), set before a step, takes its place.
        betas: Decay rates of Adam's two averages; the first above 0.
        eps: :math:`\epsilon`, added to the root of the second average.
        weight_decay: :math:`\lambda`, decoupled as in AdamW (0.01, the default of `torch.optim.AdamW`).
        initial_step_size: Where the first search probes; high rather than low, it only costs trials.
        max_trials: The largest number of trials of one search.
        relative_tolerance: Losses that differ by less than this share count as equal.
        least_change: The least peak :math:`l` of a run with :math:`q = q_0`, as a share of the rate at which a step
            changes the typical matrix by its own size; 0 sets none.

    Raises:
        ValueError: An argument is out of range; groups differ in `lr`; a step has no loss; gradients are sparse.

    Example::

        optimizer = ParabolicAdam(model.parameters(), total_steps=5 * len(loader))
        optimizer.step(closure)  # clears the gradients, computes the loss, runs backward, returns the loss
    """

    sets_step_size = True
    measures_slope = True
    takes_progress = True
    checks_finite = True
    keeps_gradients = True
    # The factor that a ClosureModule gives parameters that did not come from a checkpoint (docs/parabolic_adam.md).
    new_lr_factor = 10.0
    # Arguments of earlier versions, and what is in their place.
    renamed_arguments: ClassVar[dict[str, str]] = {
        "c": "now peak_fraction = 2 (1 - c)",
        "update_rule": "the whole model has one learning rate; optimizers.AdamSLS has one per unit",
        "joint_steps": "the whole model has one learning rate; optimizers.AdamSLS has one per unit",
    }

    def __init__(
        self,
        params: ParamsT,
        peak_fraction: float = 0.12,
        total_steps: int | None = None,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        initial_step_size: float = 0.1,
        max_trials: int = 10,
        relative_tolerance: float = 1e-6,
        least_change: float = LEAST_CHANGE,
    ) -> None:
        require(0 < peak_fraction < 2, "peak_fraction", peak_fraction, "above 0 and below 2")
        require_integer("total_steps", total_steps, 1, or_none=True)
        are_rates = 0 < betas[0] < 1 and 0 <= betas[1] < 1
        require(are_rates, "betas", betas, "from 0 to below 1, the first above 0")
        require(eps >= 0, "eps", eps, "at least 0")
        require(weight_decay >= 0, "weight_decay", weight_decay, "at least 0")
        is_probe = LEAST_PROBE <= initial_step_size <= LARGEST_PROBE
        require(is_probe, "initial_step_size", initial_step_size, "from 1e-10 to 10")
        require_integer("max_trials", max_trials, 1)
        require(relative_tolerance >= 0, "relative_tolerance", relative_tolerance, "at least 0")
        require(0 <= least_change < 1, "least_change", least_change, "from 0 to below 1")
        self.total_steps = total_steps
        # The share of the run that is done, set before each step by a callback that knows it better than a step count.
        self.progress: float | None = None
        self._last: UnreadRecord | None = None
        estimator = PeakRate(peak_fraction)
        defaults = {
            "lr": initial_step_size,
            "lr_factor": 1.0,
            "peak_fraction": peak_fraction,
            "betas": tuple(betas),
            "eps": eps,
            "weight_decay": weight_decay,
            "anchor_decay": 0.0,
            "anchor_device": "parameter",
            "initial_step_size": initial_step_size,
            "max_trials": max_trials,
            "relative_tolerance": relative_tolerance,
            "least_change": least_change,
            # Options of Adam's direction and of `GroupUpdate` that are off here.
            "amsgrad": False,
            "heavy_ball": 0.0,
            # Alike in all groups: what has been measured, the most tensors that one step moved, figures for monitors.
            **vars(estimator.begin(log_distance=math.log(initial_step_size / estimator.probe_share))),
            "most_tensors": 0,
            **dict.fromkeys(_COUNTERS, 0),
            **dict.fromkeys(("slope", "average_slope", "average_decrease"), 0.0),
        }
        super().__init__(params, defaults)
        for name in _OF_ALL_GROUPS:
            values = [group[name] for group in self.param_groups]
            is_one = all(value == values[0] for value in values)
            require(is_one, name, values, "the same in all groups; what makes their rates differ is lr_factor")

    def check_state(self, state_dict: dict[str, Any]) -> None:
        """Raise a ValueError for a state that cannot be loaded: of another optimizer, or of an older version."""
        groups = state_dict["param_groups"]
        missing = [name for name in (*_STATE, "least_change") if any(name not in group for group in groups)]
        if missing:
            raise ValueError(
                f"the state to load is of another optimizer or an older ParabolicAdam: its groups lack {missing[0]}"
            )
        super().check_state(state_dict)

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {name: self.__dict__[name] for name in ("total_steps", "progress", "_last")}

    @property
    def last_step(self) -> StepRecord | None:
        """What the last step did; None before the first one. Reading it waits for the device."""
        return None if self._last is None else self._last.read()

    def unit_reports(self) -> dict[str, UnitReport]:
        """Return what the searches found so far; there is one unit, the model."""
        group = self.param_groups[0]
        counters = {name: group[name] for name in _COUNTERS}
        averages = {"smoothed_slope": group["average_slope"], "smoothed_decrease": group["average_decrease"]}
        return {"model": UnitReport(step_size=group["lr"], slope=group["slope"], **averages, **counters)}

    def schedule(self, step: int) -> float:
        """Return the factor of the peak in a step, numbered from 1; 1 where the length of the run is not known."""
        if self.progress is not None:
            done = reached = self.progress
        elif self.total_steps is not None:
            step = min(step, self.total_steps)
            done, reached = (step - 1) / self.total_steps, step / self.total_steps
        else:
            return 1.0
        return warmup_factor(reached, _WARMUP) * decay_factor(done)

    @finds_step_sizes
    @torch.no_grad()
    def step(
        self, closure: Closure | None = None, *, evaluate: Evaluate | None = None, loss: Tensor | float | None = None
    ) -> Any:
        """Make one step and return the loss at its start; the arguments are those of `step_contract.open_step`."""
        start = start_step(self, adam, closure, evaluate, loss)
        if start is None:
            return None
        finite, updates = start.finite_loss, start.updates
        group = self.param_groups[0]
        estimator, state = PeakRate(group["peak_fraction"]), PeakRateState(**{name: group[name] for name in _STATE})
        state.steps += 1
        if self.progress is None and self.total_steps is not None and state.steps == self.total_steps + 1:
            warnings.warn(
                f"ParabolicAdam: total_steps = {self.total_steps} steps are done, and there are more: from here on the "
                f"learning rate is 1/{self.total_steps} of the peak. total_steps is the length of the whole run, "
                "epochs * len(loader) in a plain loop",
                stacklevel=1,
            )
        if group["searches"]:
            self._set(lr=self._rate(estimator, state))
        elif group["lr"] > 0:
            # A group may start from a rate of its own.
            state.log_distance = math.log(group["lr"] / estimator.probe_share)
        if finite is None or not updates:
            self._set(**vars(state), skipped=group["skipped"] + (finite is None))
            self._note(start.loss, accepted=finite is not None)
            return start.returned
        tensors = sum(len(update.params) for update in updates)
        if tensors > group["most_tensors"]:
            # A direction through what has trained so far says nothing about the rest.
            state = replace(estimator.begin(state.steps - 1, state.log_distance), steps=state.steps)
            state.least_peak = group["least_change"] * rate_of_whole_change(updates)
        done = self.progress
        if done is None and self.total_steps is not None:
            done = state.steps / self.total_steps
        if estimator.is_due(state, done):
            for update in updates:
                update.compute_direction()
            slopes = _split_slopes(updates)
            _add_slopes(estimator, state, updates, slopes)
            total = over_ranks(gather([each.sum() for each in slopes]), updates)
            if not self.keeps_gradients:
                for update in updates:
                    update.free_gradients()
            self._search(estimator, state, updates, start.evaluate, finite, total)
        else:
            for update in updates:
                update.step_without_search(group["lr"])
            if estimator.splits_slope(state, done):
                _add_slopes(estimator, state, updates, _split_slopes(updates))
            self._note(finite)
        self._set(**vars(state), most_tensors=max(tensors, group["most_tensors"]))
        return start.returned

    def _search(
        self,
        estimator: PeakRate,
        state: PeakRateState,
        updates: list[GroupUpdate],
        evaluate: Evaluate,
        start: Loss,
        slopes: Tensor,
    ) -> None:
        """Measure the curvature along the step, update the learning rate, and move by it."""
        line = Line([(update, 1.0) for update in updates], without_momentum=False)

        def loss_at(step_size: float) -> Loss:
            line.move_to(step_size)
            return as_loss(evaluate())

        group = self.param_groups[0]
        # On their way while the first trial runs, which waits for the device anyway.
        sums = state.slope_sums.to("cpu", non_blocking=True)
        options = {name: group[name] for name in ("max_trials", "relative_tolerance")}
        try:
            found = measure_parabola(loss_at, start, slopes, estimator.probe(state), **options)
        except BaseException:
            line.move_to(0.0)
            raise
        loss_after = found.loss if found.curvature is None else found.probed_loss
        figures = {"trials": group["trials"] + found.trials, "backtracks": group["backtracks"] + found.rejected}
        # Uphill, the step is made by what was measured before.
        moves = found.is_finite and (found.curvature is not None or group["searches"] > 0)
        if moves:
            keeps_largest = self.total_steps is not None or self.progress is not None
            estimator.update(
                state, found.loss, found.slope, found.curvature, keeps_largest=keeps_largest, slope_sums=sums
            )
            rate = self._rate(estimator, state)
            line.take(rate)
            figures |= {"lr": rate, "searches": group["searches"] + 1, "slope": found.slope}
            for name, value in (("average_slope", found.slope), ("average_decrease", found.loss - loss_after)):
                figures[name] = _SMOOTHING * group[name] + (1 - _SMOOTHING) * value
        else:
            line.move_to(0.0)
            counter = "failures" if found.is_finite else "skipped"
            figures[counter] = group[counter] + 1
            if found.is_finite and not group["searches"]:
                figures["lr"] = found.probe
                if figures[counter] == MANY_FAILURES:
                    warn_of_failures("ParabolicAdam")
        self._set(**figures)
        record = {"evaluations": found.trials, "backtracks": found.rejected, "slope": found.slope}
        self._note(found.loss, loss_after=loss_after, accepted=moves, **record)

    def _rate(self, estimator: PeakRate, state: PeakRateState) -> float:
        """The learning rate of the present step by what has been measured."""
        total: float | None = self.total_steps
        if self.progress is not None:
            total = (state.steps - 1) / self.progress if self.progress else None
        return self.schedule(state.steps) * estimator.peak(state, total)

    def _set(self, **values: Any) -> None:
        for group in self.param_groups:
            group.update(values)

    def _note(self, loss: Loss, **found: Any) -> None:
        self._last = unread_record(loss, self.param_groups[0]["lr"], **found)


def _split_slopes(updates: list[GroupUpdate]) -> list[Tensor]:
    """Return the slope of each group, by the age of the gradients in the direction (`split_slope`)."""
    return [split_slope(update, 1 - update.group["betas"][0]) for update in updates]


def _add_slopes(estimator: PeakRate, state: PeakRateState, updates: list[GroupUpdate], split: list[Tensor]) -> None:
    """Add the slope of the present step, split by the age of the gradients, to the estimator's sums."""
    slopes = []
    for update, its_own in zip(updates, split, strict=True):
        earlier, present = its_own.unbind(1)
        beta = update.group["betas"][0]
        power = beta ** torch.stack([its_state["step"] for its_state in update.states]).double()
        # A parameter in its first step has no earlier gradients.
        has_past = power < beta
        longer = torch.where(has_past, (1 - power) / (beta - power), 0.0).to(earlier, non_blocking=True)
        counts = has_past.to(earlier, non_blocking=True)
        slopes.append(torch.stack([longer * earlier, counts * earlier, counts * present]).sum(1))
    estimator.add_slopes(state, *over_ranks(gather(slopes).view(-1, 3).sum(0), updates))
