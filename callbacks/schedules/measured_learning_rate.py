"""The peak learning rate of any optimizer, measured in the first steps of a fit."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor
from torch.optim import Optimizer

from callbacks.schedules.measurable_fit import check_module, check_optimizer, check_trainer, refusal
from callbacks.schedules.measured_steps import MeasuredSteps
from callbacks.schedules.rate_scaling import peaks_of, scale_rates
from callbacks.trainer.replayed_batches import ReplayedBatches
from callbacks.trainer.trainer_callbacks import move_to_front
from optimizers import RateMeasurement


class MeasuredLearningRate(Callback):
    r"""Measures the peak learning rate of any torch optimizer during a fit, and sets it.

    A few forward passes measure the loss and its curvature along the optimizer's own steps, in the first step and then
    ever more rarely, until `measured_share` of the run is over. The highest rate of the run becomes the one that is
    measured, as in `optimizers.ParabolicAdam`, whose least peak holds here for Adam and its like too;
    docs/measured_learning_rate.md says how. The configured learning rate has no effect, but ratios between groups and
    the shape of a schedule (warm-up, decay) are kept.

    Every step is one of the optimizer's own, at the rate measured until then. For each trial `training_step` is called
    once more, without gradients; what it logs is dropped, and buffers, metrics and random numbers are restored. Logs
    `lr/measured`, and says the rate in one line when it is final. A run that is resumed goes on where it was.

    Args:
        peak_fraction: The share of the way to the minimiser of the expected loss that the peak is, above 0 and below 2.
        measured_share: The share of the run in which the rate is measured, from 0 to 1; its first 20 steps in any case.

    Attributes:
        peak: The highest learning rate of the run, as measured so far; None before the first search that found one.
        passes: Forward passes that the measurement has taken.

    Raises:
        MisconfigurationException: the optimizer finds its own step size, or keeps no `lr`, or does not move in
            proportion to it; the module optimizes manually and is no `ClosureModule`; parameters are sharded; a
            schedule or another callback sets rates of its own.

    Example::

        Trainer(callbacks=[MeasuredLearningRate()])
    """

    def __init__(self, peak_fraction: float = 0.12, measured_share: float = 0.5) -> None:
        if not 0 < peak_fraction < 2:
            raise refusal(f"peak_fraction: {peak_fraction} is not allowed; above 0 and below 2")
        if not 0 <= measured_share <= 1:
            raise refusal(f"measured_share: {measured_share} is not allowed; from 0 to 1")
        self.peak_fraction = peak_fraction
        self.measured_share = measured_share
        self._forget()

    def _forget(self) -> None:
        self.peak: float | None = None
        self.passes = 0
        self._steps: MeasuredSteps | None = None  # while the rate is measured
        self._put_step_back: Callable[[], None] | None = None
        self._optimizer: Optimizer | None = None
        self._weights: list[float] = []
        self._highest = 0.0  # the highest rate that the optimizer's and its schedules' rates lead to
        self._loaded: dict[str, Any] | None = None
        self._start = (0, 0)  # the trainer's step and epoch as the fit began, not 0 in a second fit of one trainer
        self._total: int | None = None  # the optimizer steps of the fit, where they are known
        self._bases: list[float] | None = None  # the groups' rates without schedule in the run that was saved

    # The start of a fit

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            self._forget()
            move_to_front(self, trainer)
            check_trainer(trainer)
            check_module(pl_module)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if len(trainer.optimizers) != 1:
            raise refusal(f"one optimizer is expected, got {len(trainer.optimizers)}; leave the callback out")
        check_optimizer(trainer.optimizers[0], trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # By now a resumed run has its rates.
        optimizer = self._optimizer = trainer.optimizers[0]
        loaded, self._loaded = self._loaded, None
        if loaded is not None:
            step, epoch = loaded.get("start", (0, 0))  # earlier versions have none
            self._start = step, epoch
        elif not trainer.ckpt_path or not trainer.global_step:
            self._start = trainer.global_step, trainer.current_epoch
        self._total = _total_steps(trainer, self._start)
        if loaded is not None:
            self._take_in_saved(loaded, optimizer)
            if loaded["measurement"] is not None:
                self._begin(trainer, pl_module, optimizer)
                self._steps.measurement.load_state_dict(loaded["measurement"])  # type: ignore[union-attr]
        elif trainer.ckpt_path and trainer.global_step:
            rank_zero_warn(
                "MeasuredLearningRate: the run that goes on was not measured from its start; its learning rate stays"
            )
        else:
            self._take_in_given_rates(trainer, pl_module, optimizer)
            self._begin(trainer, pl_module, optimizer)

    def _take_in_saved(self, saved: dict[str, Any], optimizer: Optimizer) -> None:
        """Go on from what `state_dict` returned, but for the measurement itself."""
        self._weights, self._highest, self._bases = saved["weights"], saved["highest"], saved["bases"]
        self.peak, self.passes = saved["peak"], saved["passes"]
        if saved.get("default") is not None:
            optimizer.defaults["lr"] = saved["default"]  # which torch does not save

    def _take_in_given_rates(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Find the highest rate of each group in the run as configured, which gives the ratios between groups."""
        epochs = _epochs(trainer, self._start)
        advances = [
            (config.scheduler, _advances(config, self._total, epochs)) for config in trainer.lr_scheduler_configs
        ]
        peaks = peaks_of(optimizer, advances, (pl_module, trainer))
        self._highest = max(peaks)
        if not self._highest > 0:
            raise refusal("the learning rate is 0 throughout the run; give any other one, whose value is not used")
        self._weights = [peak / self._highest for peak in peaks]

    def _begin(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer, steps: int = 0) -> None:
        shares = self.peak_fraction, self.measured_share
        measurement = RateMeasurement(optimizer, self._weights, self._total, *shares, steps=steps)
        measurement.passes = self.passes
        batches = ReplayedBatches(trainer, pl_module) if pl_module.automatic_optimization else None
        set_peak = partial(self._set_peak, trainer, optimizer)
        self._steps = MeasuredSteps(measurement, optimizer, batches, self.peak is not None, set_peak)

    def _take_in_groups(self, trainer: Trainer, pl_module: LightningModule, batch_idx: int) -> None:
        """Begin the measurement anew for parameter groups that were added, at the rates that they came with."""
        optimizer, known = self._optimizer, len(self._weights)
        if optimizer is None or not 0 < known < len(optimizer.param_groups):
            return
        if batch_idx % trainer.accumulate_grad_batches:
            return  # the gradients of a step are about the groups that it began with
        rates = [float(group["lr"]) for group in optimizer.param_groups]
        one = max(rate / weight if weight else 0.0 for rate, weight in zip(rates, self._weights, strict=False))
        weights = self._weights + [rate / one if one else 1.0 for rate in rates[known:]]
        self._weights = [weight / max(weights) for weight in weights]
        self._highest *= max(weights)
        self._begin(trainer, pl_module, optimizer, trainer.global_step - self._start[0])

    # The steps

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._keep_scale(trainer)
        self._take_in_groups(trainer, pl_module, batch_idx)
        if self._steps is not None:
            self._steps.begin_batch(batch, batch_idx)
            self._restore_step()
            self._put_step_back = self._steps.replace_step()

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        if self._steps is not None:
            self._steps.add_loss(loss)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        # The gradients are clipped after this.
        if self._steps is not None:
            self._steps.keep_gradients()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._restore_step()
        if self._steps is not None:
            measurement = self._steps.measurement
            self.passes = measurement.passes
            if measurement.steps and measurement.is_finished:
                self._steps = None
                self._say(trainer, measurement)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._restore_step()
        if self._steps is not None and self._steps.measurement.steps:
            self._say(trainer, self._steps.measurement)  # a run shorter than its measurement

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._restore_step()

    def _restore_step(self) -> None:
        put_back, self._put_step_back = self._put_step_back, None
        if put_back is not None:
            put_back()

    def _set_peak(self, trainer: Trainer, optimizer: Optimizer, peak: float) -> None:
        self.peak = peak
        scale_rates(optimizer, _schedules(trainer), peak / self._highest)
        self._highest = peak
        for logger in trainer.loggers:
            logger.log_metrics({"lr/measured": peak}, step=trainer.global_step)

    def _say(self, trainer: Trainer, measurement: RateMeasurement) -> None:
        if self.peak is None:
            rank_zero_warn(
                f"MeasuredLearningRate: no step of {measurement.steps} led downhill, so that there is nothing to "
                "measure; the learning rate stays as given"
            )
            return
        trainer.callback_metrics["lr/measured"] = torch.tensor(self.peak)
        rank_zero_info(
            f"MeasuredLearningRate: peak learning rate {self.peak:.3g}, measured in {measurement.steps} steps "
            f"({measurement.passes} forward passes)"
        )

    # Checkpoints

    def state_dict(self) -> dict[str, Any]:
        steps = self._steps
        return {
            "peak": self.peak,
            "passes": self.passes,
            "highest": self._highest,
            "start": list(self._start),
            "weights": self._weights,
            "bases": self._bases_now(),
            "default": None if self._optimizer is None else _number(self._optimizer.defaults.get("lr")),
            "measurement": None if steps is None else steps.measurement.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # Lightning's BatchSizeFinder restores a fit that has not begun to train.
        self._loaded = state_dict if state_dict["weights"] else None

    def _bases_now(self) -> list[float]:
        groups = [] if self._optimizer is None else self._optimizer.param_groups
        return [float(group["initial_lr"]) for group in groups if "initial_lr" in group]

    def _keep_scale(self, trainer: Trainer) -> None:
        """Scale rates once more that a resumed run has made anew: a ClosureModule, for a run of another length."""
        before, self._bases = self._bases, None
        now = self._bases_now()
        if before and len(before) == len(now) and max(now) > 0 and self._optimizer is not None:
            factor = max(before) / max(now)
            if not math.isclose(factor, 1.0, rel_tol=1e-6):
                scale_rates(self._optimizer, _schedules(trainer), factor)


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float, Tensor)) else None


def _schedules(trainer: Trainer) -> list[Any]:
    return [config.scheduler for config in trainer.lr_scheduler_configs]


def _epochs(trainer: Trainer, start: tuple[int, int]) -> int | None:
    """Return the number of epochs of a fit; None where it is unknown."""
    return None if trainer.max_epochs in (None, -1) else trainer.max_epochs - start[1]


def _total_steps(trainer: Trainer, start: tuple[int, int]) -> int | None:
    """Return the number of optimizer steps of a fit; None where it is unknown.

    Args:
        trainer: The trainer; a ClosureModule has told it how many batches a step is about.
        start: Its step and epoch as the fit began; its limits count from 0.
    """
    limits = [trainer.max_steps - start[0]] if trainer.max_steps > 0 else []
    epochs = _epochs(trainer, start)
    if epochs is not None and not math.isinf(trainer.num_training_batches):
        limits.append(math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches) * epochs)
    return min(limits, default=None) or None


def _advances(config: Any, total: int | None, epochs: int | None) -> int:
    """Return how many times a schedule advances in a fit, as far as that is known."""
    known = total if config.interval == "step" else epochs
    return (10_000 if known is None else known) // config.frequency
