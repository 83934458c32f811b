"""A learning rate that follows the share of a time budget, for runs of an unknown number of steps."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from callbacks.schedules.training_seconds import TrainingSeconds
from callbacks.trainer.trainer_callbacks import callbacks_of
from optimizers import traits
from optimizers.warmup_and_decay import Shape, warmup_and_decay


class ScheduleBySeconds(Callback):
    r"""Warms the learning rate up and lets it decay over a budget in seconds of training.

    A run that ends after a number of seconds has no known number of steps for a schedule; with this one, fast and slow
    methods alike go through their whole schedule. With :math:`p` the share of the budget of
    `callbacks.TrainingSeconds` that is used up and :math:`w` the warm-up's share, every group's learning rate is its
    initial one times

    .. math::
        s(p) = \begin{cases} p / w & p < w \\ 1 - q,\ \tfrac{1}{2}(1 + \cos \pi q),\ \text{or } 1 & p \ge w \end{cases}
        \qquad q = \frac{p - w}{1 - w}

    for the shapes ``linear``, ``cosine`` and ``constant``. Schedules over the share of a budget are those of
    arXiv 1905.04753 (Li et al., "Budgeted Training"). The formula is `optimizers.warmup_and_decay`'s. An optimizer with
    a schedule of its own (`takes_progress`, as `optimizers.ParabolicAdam`) is told :math:`p` instead, in `progress`.

    A run that is resumed goes on at the share of the budget that its checkpoint had used up. It cannot repeat an
    uninterrupted run bit for bit, because no two runs take the same time; it says so.

    Args:
        shape: How the learning rate falls after the warm-up: ``linear``, ``cosine``, or not at all (``constant``).
        warmup: Share of the budget over which it rises from 0, from 0 to below 1.

    Raises:
        MisconfigurationException: if ``warmup`` is out of range; when training starts without a
            `callbacks.TrainingSeconds` that has a budget, or with a model that has a schedule of its own or an
            optimizer that searches for its step size.

    Example::

        Trainer(max_epochs=-1, callbacks=[TrainingSeconds(max_seconds=60.0), ScheduleBySeconds()])
    """

    def __init__(self, shape: Shape = "linear", warmup: float = 0.1) -> None:
        if not 0 <= warmup < 1:
            raise MisconfigurationException(
                f"warmup: {warmup} is not allowed; a share of the budget, from 0 to below 1"
            )
        self.shape = shape
        self.warmup = warmup
        self._initial: list[list[float]] | None = None
        self._clock: TrainingSeconds | None = None

    def scale(self, progress: float) -> float:
        """Factor of the learning rate when this share of the budget is used up."""
        return warmup_and_decay(progress, warmup=self.warmup, shape=self.shape)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            self._initial = None  # of an earlier run; a checkpoint's rates are loaded after this

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        clocks = callbacks_of(trainer, TrainingSeconds)
        if not clocks or clocks[0].max_seconds is None:
            raise MisconfigurationException(
                "ScheduleBySeconds follows a budget: add callbacks.TrainingSeconds with max_seconds"
            )
        if trainer.lr_scheduler_configs:
            raise MisconfigurationException(
                "ScheduleBySeconds and the model's lr_scheduler would overrule each other: set one of them"
            )
        for optimizer in trainer.optimizers:
            if traits(optimizer).sets_step_size and not traits(optimizer).takes_progress:
                raise MisconfigurationException(
                    f"ScheduleBySeconds: {type(optimizer).__name__} searches for its own step size, which a schedule "
                    "would overwrite; leave ScheduleBySeconds out, or choose an optimizer with a learning rate"
                )
            if any(group.get("lr") is None for group in optimizer.param_groups):
                raise MisconfigurationException(
                    f"ScheduleBySeconds: {type(optimizer).__name__} keeps no learning rate (lr) in its groups to set; "
                    "leave ScheduleBySeconds out"
                )
        self._clock = clocks[0]
        if self._initial is not None:
            rank_zero_info(
                "ScheduleBySeconds: the resumed run follows the clock, so its learning rates are not those of an "
                "uninterrupted run"
            )

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self._clock is None:
            return
        if self._initial is None:  # not before: a rate that LearningRateFinder has found is the module's to set
            self._initial = [[group["lr"] for group in optimizer.param_groups] for optimizer in trainer.optimizers]
        factor = self.scale(self._clock.progress)
        for optimizer, rates in zip(trainer.optimizers, self._initial, strict=True):
            if traits(optimizer).takes_progress:
                optimizer.progress = self._clock.progress  # type: ignore[attr-defined]
                continue
            groups = optimizer.param_groups
            # One that was added in the run, as by Lightning's BaseFinetuning, comes with its rate of this moment.
            rates += [group["lr"] / (factor or 1.0) for group in groups[len(rates) :]]
            for group, rate in zip(groups, rates, strict=True):
                group["lr"] = rate * factor

    def state_dict(self) -> dict[str, Any]:
        return {"initial": self._initial}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._initial = state_dict["initial"]
