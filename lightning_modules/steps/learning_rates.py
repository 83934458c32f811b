"""The learning rates of a fit: the one that a search for it has found, and the schedule that changes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.types import LRSchedulerConfig
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from lightning_modules.checkpoints.loop_progress import has_ended_epoch
from lightning_modules.errors import ModelError
from lightning_modules.schedules import Schedule
from lightning_modules.steps.factories import made_by, parameters_of
from lightning_modules.trainer.run_length import RunLength
from optimizers import traits


class LearningRates:
    """The learning rates of a fit under manual optimization, where Lightning leaves the schedule to the module.

    The schedule, the module's or one that other code has installed, advances after each step or at the end of each
    epoch, by Lightning's hook ``lr_scheduler_step``. With a ``frequency`` it does so where the number of batches in the
    epoch, or of epochs, is a multiple of that, as Lightning 2.6.6 counts under automatic optimization. A run that
    resumes with another length gets the schedule of that length, at the place that the saved run had reached.

    Args:
        schedule: The module's schedule, if it has one.

    Attributes:
        found: The learning rate that a search (Lightning's ``lr_find``) has found, for this and later fits.
        rates: The groups' learning rates without the schedule.
        own_monitor: What a schedule of other code watches, as far as that is known.
    """

    def __init__(self, schedule: Schedule | None) -> None:
        self.found: float | None = None
        self.rates: list[float] = []
        self.own_monitor: str | None = None
        self._is_new = False  # whether the present optimizer is yet to take the rate that was found
        self._schedule = schedule
        # Of a fit with a schedule: its length, and that of the run it goes on from.
        self._length: RunLength | None = None
        self._resumed_length: RunLength | None = None
        self._in_epoch = False  # whether an epoch has started and not ended
        self._validated = False  # whether that epoch has been validated

    # Making optimizer and schedule

    def set_found(self, rate: float) -> None:
        """Take the learning rate that a search has found."""
        self.found, self._is_new = rate, True

    def optimizer_keywords(self, factory: Callable[..., Any]) -> dict[str, float]:
        """Return what a new optimizer is to be made with: ``lr``, where a search has found one.

        Args:
            factory: A class of optimizers, or a partial of one.

        Raises:
            ModelError: if the optimizer finds its own step size, or takes none as ``lr``.
        """
        self._is_new = False
        if self.found is None:
            return {}
        made = made_by(factory)
        arguments = parameters_of(made).values()
        takes_rate = any(each.name == "lr" or each.kind is each.VAR_KEYWORD for each in arguments)
        if traits(made).sets_step_size or not takes_rate:
            why = "finds its own step size" if traits(made).sets_step_size else "takes no lr"
            raise ModelError(
                f"lr: the module's attribute lr is {self.found:g}, and {made.__name__} {why}; do not set lr, or choose "
                "an optimizer with a learning rate"
            )
        return {"lr": self.found}

    def build(self, schedule: Schedule | None, optimizer: Optimizer, length: RunLength) -> dict[str, Any]:
        """Return what ``configure_optimizers`` returns: the optimizer and, for a run of some length, its schedule.

        Raises:
            ModelError: if a search has found a rate that no parameter would have.
        """
        self._schedule, self.rates = schedule, [group.get("lr", 0.0) for group in optimizer.param_groups]
        if self.found is not None:
            self._have_own_rates(optimizer)
        if schedule is None:
            return {"optimizer": optimizer}
        self._length = length
        config = {"scheduler": schedule.build(optimizer, length), "interval": schedule.interval}
        return {"optimizer": optimizer, "lr_scheduler": config}

    # The course of a fit

    @property
    def has_new_length(self) -> bool:
        """Whether a run is about to go on with the module's schedule over another length than the saved run's."""
        has_length = self._schedule is not None and self._length is not None
        return has_length and self._resumed_length not in (None, self._length)

    def at_train_start(self, trainer: Trainer) -> bool:
        """Take the rate that a search at the start of this fit has found, or the length that the run now has.

        Returns:
            Whether a search has found a rate.

        Raises:
            ModelError: if a schedule asks for what it does not get under manual optimization.
        """
        for config in trainer.lr_scheduler_configs:
            if config.interval == "step" and config.frequency != 1 and _is_per_epoch(config):
                raise ModelError(
                    f"configure_optimizers: ReduceLROnPlateau with interval step and frequency {config.frequency}: it "
                    "advances per epoch under manual optimization; give interval epoch, and the frequency in epochs"
                )
            if self._schedule is None and isinstance(config.scheduler, ReduceLROnPlateau):
                self._check_mode_of_own(config.scheduler)
        has_found = self.take_found(trainer, in_training=False)
        has_new_length, self._resumed_length = self.has_new_length, None
        if has_new_length and self._has_own_schedule(trainer):
            self._lay_over_new_length(trainer)
        return has_found

    def take_found(self, trainer: Trainer, in_training: bool) -> bool:
        """Set the rate that a search has found since this was last asked, if there is one, and return whether there is.

        Each group has it times its factor. Those with a rate of their own keep it, although Lightning has set theirs
        as well.

        Args:
            trainer: The trainer.
            in_training: Whether the module's schedule goes on from where it was; else it begins from the rate.
        """
        is_new, self._is_new = self._is_new, False
        if not is_new or self.found is None:
            return False
        optimizer = trainer.optimizers[0]
        rates = [self.found * group.get("lr_factor", 1.0) for group in optimizer.param_groups]
        if len(self.rates) == len(rates):  # a callback that has added groups knows their rates, this module does not
            is_own = self._have_own_rates(optimizer)
            rates = [own if keeps else rate for own, keeps, rate in zip(self.rates, is_own, rates, strict=True)]
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        self.rates = rates
        if self._has_own_schedule(trainer):
            self._rebuild(trainer, trainer.lr_scheduler_configs[0].scheduler.last_epoch if in_training else 0)
        return True

    def _has_own_schedule(self, trainer: Trainer) -> bool:
        """Return whether the schedule that runs is the module's."""
        return self._schedule is not None and self._length is not None and len(trainer.lr_scheduler_configs) == 1

    def _check_mode_of_own(self, schedule: ReduceLROnPlateau) -> None:
        """Refuse a schedule that other code has made to wait for a rise of what it watches, which is a loss here."""
        if schedule.mode == "max" and self.own_monitor is None:
            raise ModelError(
                f"configure_optimizers: ReduceLROnPlateau with mode max watches {self._monitor}, since no monitor is "
                "given; give one, or give the module lr_scheduler, a lightning_modules.Schedule with monitor"
            )

    def _have_own_rates(self, optimizer: Optimizer) -> list[bool]:
        """Return which groups are made with a rate of their own (``param_groups.lrs``), of which a search says nothing.

        Raises:
            ModelError: if all are.
        """
        usual, groups = optimizer.defaults.get("lr"), optimizer.param_groups
        pairs = zip(self.rates, groups, strict=True)
        are_own = [usual is not None and rate != usual * group.get("lr_factor", 1.0) for rate, group in pairs]
        if all(are_own):
            raise ModelError(
                f"lr: a search has found {self.found:g}, and all parameters have rates of their own "
                "(param_groups.lrs); leave out one of them"
            )
        return are_own

    def _lay_over_new_length(self, trainer: Trainer) -> None:
        """Put a schedule of the present length in place of the one that was loaded, at the place it has reached."""
        schedule = trainer.lr_scheduler_configs[0].scheduler
        # A callback that has added groups knows their rates, this module does not.
        knows_rates = len(self.rates) == len(trainer.optimizers[0].param_groups)
        if knows_rates and isinstance(schedule, LRScheduler) and not isinstance(schedule, ReduceLROnPlateau):
            self._rebuild(trainer, schedule.last_epoch)

    def _rebuild(self, trainer: Trainer, advances: int) -> None:
        assert self._schedule is not None
        assert self._length is not None
        new = self._schedule.rebuild(trainer.optimizers[0], self._length, self.rates, advances)
        trainer.lr_scheduler_configs[0].scheduler = new

    def after_step(self, module: LightningModule) -> None:
        """Advance the schedules that do so per step."""
        batches = module.trainer.fit_loop.epoch_loop.batch_idx + 1
        for config in module.trainer.lr_scheduler_configs:
            if not _is_per_epoch(config) and batches % config.frequency == 0:
                module.lr_scheduler_step(config.scheduler, None)

    def at_epoch_start(self) -> None:
        """Begin an epoch."""
        self._in_epoch = True

    def after_validation(self) -> None:
        """Note that the epoch has the values of a validation."""
        self._validated = True

    def at_epoch_end(self, module: LightningModule, epoch: int | None = None) -> None:
        """End an epoch, and advance the schedules that do so then.

        Args:
            module: The module.
            epoch: The epoch's number, from 0. None: the trainer's present one.
        """
        epochs = (module.trainer.current_epoch if epoch is None else epoch) + 1
        for config in filter(_is_per_epoch, module.trainer.lr_scheduler_configs):
            if config.interval == "epoch" and epochs % config.frequency:
                continue
            if not isinstance(config.scheduler, ReduceLROnPlateau):
                module.lr_scheduler_step(config.scheduler, None)
            elif self._is_measured(module.trainer):
                value = self._monitored(module.trainer)
                self._warn_below_zero(config.scheduler, value)
                module.lr_scheduler_step(config.scheduler, value)
        self._in_epoch = self._validated = False

    @property
    def _monitor(self) -> str:
        return self._schedule.monitor if self._schedule is not None else self.own_monitor or "val/loss"

    def _is_measured(self, trainer: Trainer) -> bool:
        """Return whether the monitored value is this epoch's; one without a validation has that of an earlier one."""
        return self._validated or self._monitor.startswith("train/") or not trainer.enable_validation

    def _monitored(self, trainer: Trainer) -> Tensor:
        monitored = trainer.callback_metrics.get(self._monitor)
        if monitored is None:
            logged = ", ".join(sorted(trainer.callback_metrics))
            raise ModelError(f"lr_scheduler.monitor: {self._monitor!r} is not logged; logged: {logged}")
        return monitored

    def _warn_below_zero(self, schedule: ReduceLROnPlateau, value: Tensor) -> None:
        """Warn of a value that torch 2.13 takes for a better one than its equal: 1 - 1e-4 times it is more than it."""
        if schedule.threshold_mode == "rel" and value < 0:
            rank_zero_warn(
                f"lr_scheduler: {self._monitor} is below 0, where ReduceLROnPlateau with threshold_mode rel takes "
                "an equal value for a better one and never lowers the rate; give it threshold_mode: abs"
            )

    # Checkpoints

    def save(self, checkpoint: dict[str, Any]) -> None:
        """Add the rate that a search has found, and the run's length, over which the schedule is laid."""
        if self.found is not None:
            checkpoint["found_lr"] = self.found
        if self._length is not None:
            checkpoint["run_length"] = list(self._length)

    def load(self, checkpoint: dict[str, Any]) -> None:
        """Take the rate and the length of the run that a fit goes on from; of an empty checkpoint, none."""
        if self.found is None:
            self.found = checkpoint.get("found_lr")
        stored = checkpoint.get("run_length")
        self._resumed_length = None if stored is None else RunLength(*stored)

    def place_in_epoch(self, trainer: Trainer) -> dict[str, int]:
        """Return where in an epoch a checkpoint is written, for :meth:`resume_in_epoch`."""
        # Callbacks that save after a validation do so before the module learns of its end.
        validated = self._validated or bool(trainer.validating)
        end_due = self._in_epoch and has_ended_epoch(trainer) and trainer.is_last_batch
        return {"validated": validated, "epoch_end_due": end_due, "epoch": trainer.current_epoch}

    def resume_in_epoch(self, module: LightningModule, place: Mapping[str, int]) -> None:
        """Go on from where :meth:`place_in_epoch` was; end the epoch if its end was due."""
        self._validated = bool(place.get("validated", False))
        self._in_epoch = not has_ended_epoch(module.trainer)  # of an epoch within which it goes on, there is no start
        if place.get("epoch_end_due", False):
            self.at_epoch_end(module, place.get("epoch"))


def _is_per_epoch(config: LRSchedulerConfig) -> bool:
    return config.interval == "epoch" or isinstance(config.scheduler, ReduceLROnPlateau)
