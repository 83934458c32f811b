"""A LightningModule whose optimizer may compute the loss of a batch again, for any model and any loss."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from inspect import signature
from typing import Any, Self

import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.plugins.precision import DoublePrecision
from lightning.pytorch.strategies import ParallelStrategy
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.optim import Optimizer
from torchmetrics import Metric, MetricCollection

from lightning_modules.batches.batch_rows import count_examples
from lightning_modules.checkpoints.callback_states import carry_over_best, keep_given_patience
from lightning_modules.checkpoints.checkpoint_check import (
    check_entries,
    check_loadable,
    check_moved_parameters,
    check_optimizer_state,
)
from lightning_modules.checkpoints.checkpoint_file import check_file
from lightning_modules.checkpoints.given_options import GivenOptions
from lightning_modules.checkpoints.hyperparameter_check import check_arguments
from lightning_modules.checkpoints.model_checkpoints import WAITING, save_with_own_scores, waiting_saves
from lightning_modules.checkpoints.plain_hyperparameters import keep_plain_hyperparameters
from lightning_modules.checkpoints.resumption import Resumption
from lightning_modules.checkpoints.schedule_check import ENTRY as SCHEDULES
from lightning_modules.checkpoints.schedule_check import check_schedule, names_of
from lightning_modules.checkpoints.state_precision import keep_precision
from lightning_modules.closures import StepClosures, checked_loss
from lightning_modules.errors import ModelError
from lightning_modules.ignored_warnings import ignore_dropped_monitor
from lightning_modules.models.compilation import compile_loss_alone
from lightning_modules.models.cpu_products import CpuProducts
from lightning_modules.models.sharded_model import reshard, shard_model, sharded_modules
from lightning_modules.schedules import Schedule
from lightning_modules.steps.combinations import check_combination
from lightning_modules.steps.gradient_clip import GradientClip
from lightning_modules.steps.learning_rates import LearningRates
from lightning_modules.steps.logged_once import LoggedOnce, metrics_within
from lightning_modules.steps.module_arguments import check_module_arguments
from lightning_modules.steps.optimizer_calls import backward_of, step_context
from lightning_modules.steps.optimizer_making import make_optimizer
from lightning_modules.steps.optimizer_modes import OptimizerModes
from lightning_modules.steps.own_monitor import monitor_in
from lightning_modules.steps.own_step_size import OwnStepSize
from lightning_modules.steps.rounded_squares import warn_of_rounded_squares
from lightning_modules.steps.skipped_steps import SkippedSteps
from lightning_modules.steps.unused_parameters import check_gradients_of_ranks
from lightning_modules.trainer.batch_size_finder import (
    allow_batch_sizes,
    check_batch_size_finders,
    refuse_batch_sizes_in_training,
)
from lightning_modules.trainer.earlier_fit import check_fresh
from lightning_modules.trainer.exchanged_gradients import ExchangedGradients
from lightning_modules.trainer.lightning_callbacks import (
    check_rate_monitor,
    check_trainer,
    leave_out_searches,
    put_searches_back,
)
from lightning_modules.trainer.reduction import reduced
from lightning_modules.trainer.run_length import (
    FitStart,
    RunLength,
    run_length,
    warn_of_time_limit,
    warn_without_length,
)
from lightning_modules.trainer.step_axis import StepAxis
from lightning_modules.trainer.trainer_callbacks import callbacks_of, without_present
from lightning_modules.trainer.weight_averages import prepare_averages
from lightning_modules.trainer.whole_evaluation import WholeEvaluation
from optimizers import ParabolicAdam, ParamGroups
from optimizers.other_generators import GeneratorAccess, generators_within
from optimizers.replayed import BufferPlace, moving_buffers
from optimizers.training_modes import restore_modes, training_modes

# Lightning weights a logged loss by an integer; weights of batches need not be integers.
_WEIGHT_UNITS = 2**16


class ClosureModule(LightningModule):
    """A LightningModule for optimizers that compute the loss of a batch more than once.

    A subclass defines :meth:`compute_loss`; ``fit``, ``validate`` and ``test`` then work, with any torch optimizer.
    Optimization is manual in Lightning's sense: an optimizer whose ``step`` takes ``evaluate`` gets
    ``step(closure, evaluate=…, loss=…)``, any other one ``step(closure)``. All trials of a step see the same batch and
    the same dropout masks. A step whose loss or gradients are not finite is left out. Logs ``train/loss``,
    ``train/step_size``, ``val/loss`` and ``test/loss``, and in steps that loggers are handed, ``train/step_time``
    (seconds of a step), ``train/examples_per_second`` and ``train/skipped_steps`` (so far).

    Args:
        optimizer: Makes the optimizer from parameter groups. An argument ``steps_per_epoch`` or ``total_steps`` that is
            null is filled in with the run's own.
        lr_scheduler: Learning-rate schedule, for optimizers that do not find their own step size. Default: none.
        param_groups: Divides the model into the optimizer's parameter groups. Default: the whole model as one unit, its
            biases and norms without weight decay.
        accumulate_grad_batches: Batches per optimizer step, 1 or more. A step, and every trial of a line search in it,
            is about all of them.
        gradient_clip: Bound on the gradient; not for line searches, which need the slope of the loss. Default: none.
        max_skipped_steps: How many steps in a row may be left out before the run stops, 1 or more.

    Attributes:
        new_parameter_names: Those parameters of :attr:`trained_module` that came from no checkpoint, for a subclass to
            set: they learn faster where the optimizer says so (ParabolicAdam) and decay towards zero where others
            decay towards their pretrained values (AdamWL2SP).

    Raises:
        ModelError: if an argument is out of range.

    Example::

        class Classifier(ClosureModule):
            def __init__(self, **training):
                super().__init__(**training)
                self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

            def compute_loss(self, batch):
                images, labels = batch
                return nn.functional.cross_entropy(self.layers(images), labels)

        Trainer(max_epochs=1).fit(Classifier(optimizer=SaLSA), loader)
    """

    def __init__(
        self,
        optimizer: OptimizerCallable = ParabolicAdam,
        lr_scheduler: Schedule | None = None,
        param_groups: ParamGroups | None = None,
        accumulate_grad_batches: int = 1,
        gradient_clip: GradientClip | None = None,
        max_skipped_steps: int = 20,
    ) -> None:
        super().__init__()
        check_module_arguments(
            optimizer, lr_scheduler, param_groups, accumulate_grad_batches, gradient_clip, max_skipped_steps
        )
        self.automatic_optimization = False
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.param_groups = param_groups
        self.accumulate_grad_batches = accumulate_grad_batches
        self.gradient_clip = gradient_clip
        self.max_skipped_steps = max_skipped_steps
        self._skipped_steps = SkippedSteps(max_skipped_steps)
        self._logged_skipped: int | None = None
        self._own_step_size = OwnStepSize()
        self._buffers_that_move: list[BufferPlace] = []
        self._generators_within: list[GeneratorAccess] = []
        self._sharded_modules: list[FSDPModule] = []
        self._metrics_within: list[Metric | MetricCollection] = []
        self.new_parameter_names: Sequence[str] = ()
        self.module_order: Sequence[str] = ()  # names within trained_module as they run, where that is known
        self._pending_batches: list[Any] = []
        self._resumed: dict[str, Any] = {}  # the checkpoint that a fit is about to go on from
        self._fit_start = FitStart()
        self._length: RunLength | None = None  # of a fit, from when its optimizer is made until it starts
        self._resumption = Resumption()
        self._modes = OptimizerModes()
        self._modes_before_evaluation: dict[nn.Module, bool] = {}
        self._axis = StepAxis()
        self._learning_rates = LearningRates(lr_scheduler)
        self._given_options = GivenOptions()

    # What a subclass may define

    def compute_loss(self, batch: Any) -> Tensor:
        """Return the mean loss of a batch, a scalar.

        A step calls it several times. What it logs and adds to torchmetrics is taken from the first call alone.

        Args:
            batch: A batch of the data loader, or what :meth:`prepare_batch` makes of it.
        """
        raise TypeError(f"{type(self).__name__} has to define compute_loss(batch), which returns the mean loss")

    def prepare_batch(self, batch: Any, split: str) -> list[Any]:
        """Return the micro-batches that :meth:`compute_loss` gets for a batch, once per step. Default: the batch.

        Args:
            batch: A batch of the data loader.
            split: ``train``, or ``val0``, ``val1``, …, ``test0``, … for the evaluation sets.
        """
        return [batch]

    def mean_over(self, batch: Any) -> float | Tensor:
        """Return how many terms :meth:`compute_loss` is a mean over, or the sum of their weights.

        It weights accumulated batches and ranks. A batch of no terms, whose mean is NaN, counts for nothing; a step
        without any is left out.

        Args:
            batch: What :meth:`compute_loss` gets. Default: its number of examples.
        """
        return count_examples(batch)

    @property
    def always_has_terms(self) -> bool:
        """Whether :meth:`mean_over` is above 0 for any batch, so that a step need not allow for it; default: no."""
        return False

    @property
    def trained_module(self) -> nn.Module:
        """The module whose parameters the optimizer gets; default: this one."""
        return self

    @property
    def constant_buffers(self) -> bool:
        """Whether no forward pass changes a buffer, so that DDP need not exchange them; default: unknown, False."""
        return False

    def configure_model(self) -> None:
        """Shard the model, under ModelParallelStrategy; a subclass may do so in its own way (`fully_shard`)."""
        if self._trainer is not None:  # load_from_checkpoint calls this as well
            shard_model(self.trainer, self, self.trained_module)

    def configure_callbacks(self) -> Sequence[Callback]:
        self._begin_anew()
        if self.trainer.state.fn == "fit":
            check_trainer(self.trainer, self)
        allow_batch_sizes(self.trainer)  # an earlier fit may have ended in an error
        check_batch_size_finders(self.trainer, self)
        # One that another module has left in this trainer goes: Lightning would warn that it is overridden.
        others = [each for each in callbacks_of(self.trainer, Callback) if not isinstance(each, StepAxis)]
        self.trainer.callbacks = others  # type: ignore[attr-defined]
        return [*without_present([ExchangedGradients(), WholeEvaluation(), CpuProducts()], self.trainer), self._axis]

    def setup(self, stage: str) -> None:
        self._begin_anew()  # again: a subclass may override either hook without calling this class's
        compile_loss_alone(self)
        if self._axis not in callbacks_of(self.trainer, StepAxis):
            self._axis.setup(self.trainer, self, stage)  # a subclass returns callbacks of its own alone

    def _begin_anew(self) -> None:
        """Forget what a fit has left that has not begun to train, as that of Lightning's Tuner."""
        self._note_monitor()
        self._length = None
        self._take_checkpoint({})

    def _note_monitor(self) -> None:
        """Let the module's own `configure_optimizers` tell what its schedule watches, which Lightning drops."""
        if type(self).configure_optimizers is not ClosureModule.configure_optimizers:
            self.configure_optimizers = partial(_configure_and_note, self)  # type: ignore[method-assign]

    @property
    def lr(self) -> float | None:
        """The learning rate, or None. To set it, as Lightning's ``Tuner.lr_find`` does, is for this and later fits."""
        optimizers = self.trainer.optimizers if self._trainer is not None else []
        return optimizers[0].param_groups[0].get("lr") if optimizers else self._learning_rates.found

    @lr.setter
    def lr(self, value: float) -> None:
        self._learning_rates.set_found(float(value))

    # The step

    def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:
        self._pending_batches.append(batch)
        if len(self._pending_batches) < self.accumulate_grad_batches and not self.trainer.is_last_batch:
            self._axis.mute(self.trainer)
            return None
        self._axis.unmute(self.trainer)
        started = time.perf_counter()
        batches = [part for each in self._pending_batches for part in self.prepare_batch(each, "train")]
        self._pending_batches = []
        optimizer = self._single_optimizer()
        step = self.step_closures(batches, optimizer)
        self._own_step_size.check(optimizer.optimizer, self.trainer)
        if not self._is_searching and self._learning_rates.take_found(self.trainer, in_training=True):
            self._given_options.take_rates(self._learning_rates.rates)
        is_first = self._is_first_step
        if is_first:
            warn_without_length(optimizer.optimizer)  # callbacks have told it by now
            warn_of_time_limit(optimizer.optimizer, self.trainer)
        with step_context(optimizer, is_first):
            loss = self._skipped_steps.step(optimizer, step, self._has_scaler)
        if is_first:
            warn_of_rounded_squares(optimizer.optimizer)
        self._own_step_size.note(optimizer.optimizer)
        # Weights cached during the step must not meet the batch after it.
        torch.clear_autocast_cache()
        self._learning_rates.after_step(self)
        self._log_step(loss, step.num_examples, time.perf_counter() - started)
        return loss  # for callbacks that watch it (SpikeDetection, LearningRateFinder)

    def step_closures(self, batches: list[Any], optimizer: LightningOptimizer) -> StepClosures:
        """Return the closures of a step over micro-batches, as the running strategy and precision need them.

        Args:
            batches: What :meth:`compute_loss` takes.
            optimizer: The optimizer that is about to step.
        """
        strategy = self.trainer.strategy
        without_gradient_sync: Callable[[], AbstractContextManager[None]] = (
            strategy.block_backward_sync if isinstance(strategy, ParallelStrategy) else nullcontext
        )
        several = self.trainer.world_size > 1
        return StepClosures(
            self.compute_loss,
            batches,
            zero_grad=optimizer.zero_grad,
            backward=backward_of(optimizer.optimizer, self.manual_backward),
            device=self.device,
            mean_over_ranks=partial(reduced, strategy=strategy, operation="mean"),
            without_gradient_sync=without_gradient_sync,
            module=self,
            mean_over=self.mean_over,
            always_has_terms=self.always_has_terms,
            sum_over_ranks=partial(reduced, strategy=strategy, operation="sum") if several else None,
            # Scaled gradients are the scaler's to look at.
            parameters=[] if self._has_scaler else [p for group in optimizer.param_groups for p in group["params"]],
            buffers=self._buffers_that_move,
            generators=self._generators_within,
            after_evaluation=partial(reshard, self._sharded_modules),
            computation=LoggedOnce(self, self._metrics_within).computation,
        )

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        if self._is_first_step:
            check_gradients_of_ranks(self.trainer, self)
        # Runs once per step, after the gradients are unscaled and reduced and before the optimizer reads them.
        if self.gradient_clip is not None:
            self.gradient_clip.apply(self, optimizer)

    def _single_optimizer(self) -> LightningOptimizer:
        optimizer = self.optimizers()
        # In place of none Lightning puts one without groups.
        if not isinstance(optimizer, LightningOptimizer) or not optimizer.param_groups:
            number = sum(bool(each.param_groups) for each in self.trainer.optimizers)
            raise ModelError(f"configure_optimizers: one optimizer is expected, got {number}")
        return optimizer

    @property
    def _is_first_step(self) -> bool:
        """Whether the fit, perhaps not the first one of its trainer, has made no step."""
        return self.trainer.global_step == self._fit_start.step

    @property
    def _has_scaler(self) -> bool:
        """Whether a gradient scaler runs the steps, as with ``precision: 16-mixed``."""
        return getattr(self.trainer.precision_plugin, "scaler", None) is not None

    def _log_step(self, loss: Tensor, num_examples: float | Tensor, seconds: float) -> None:
        self.log("train/loss", loss, prog_bar=True)
        step_size = self._single_optimizer().param_groups[0].get("lr")
        if step_size is not None:
            self.log("train/step_size", float(step_size), prog_bar=True)
        skipped = self._skipped_steps.skipped
        # A value costs Lightning as long as a small layer; these are for loggers, which do not read every step.
        if skipped != self._logged_skipped or self._axis.is_written(self.trainer):
            self._logged_skipped = skipped
            self.log("train/step_time", seconds)
            self.log("train/examples_per_second", num_examples * self.trainer.world_size / seconds)
            self.log("train/skipped_steps", float(skipped))

    # Evaluation

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        self._log_evaluation_loss("val", batch, dataloader_idx)

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        self._log_evaluation_loss("test", batch, dataloader_idx)

    def _log_evaluation_loss(self, stage: str, batch: Any, set_index: int) -> None:
        name = f"{stage}/loss" if set_index == 0 else f"{stage}_{set_index}/loss"
        options: dict[str, Any] = {"on_epoch": True, "on_step": False, "add_dataloader_idx": False, "sync_dist": True}
        for part in self.prepare_batch(batch, f"{stage}{set_index}"):
            # Lightning 2.6 averages the batch sizes of ranks as integers, and rounds down: each is made divisible.
            terms, loss = float(self.mean_over(part)), checked_loss(self.compute_loss(part))
            units = max(1, round(terms * _WEIGHT_UNITS)) * self.trainer.world_size if terms else 0
            # A mean over no terms is NaN, and counts for nothing.
            self.log(name, loss if units else 0.0, batch_size=units, **options)

    # Optimizer and schedule

    def configure_optimizers(self) -> Any:
        self._resumption.before_loaders(self)
        if self.trainer.ckpt_path:
            leave_out_searches(self.trainer)
            self._fit_start = FitStart(*self._resumed.get("fit_start", ()))
        else:
            put_searches_back(self.trainer)
            self._fit_start = FitStart(self.trainer.global_step, self.trainer.current_epoch)
        self._length = self._present_length()
        keywords = self._learning_rates.optimizer_keywords(self.optimizer)
        optimizer = make_optimizer(self, self._length, keywords, self._has_scaler)
        self._given_options.take(optimizer)
        return self._learning_rates.build(self.lr_scheduler, optimizer, self._length)

    @property
    def _is_searching(self) -> bool:
        """Whether a fit is between making its optimizer and its start, when LearningRateFinder and its like run."""
        return self._length is not None

    def _present_length(self) -> RunLength:
        return run_length(self.trainer, self.accumulate_grad_batches, self._fit_start)

    # The course of a fit

    def on_fit_start(self) -> None:
        check_fresh(self.trainer)
        if self._is_searching and self._length != self._present_length():
            # Lightning's BatchSizeFinder has changed it.
            self.trainer.strategy.setup_optimizers(self.trainer)
        self._length = None
        if self.trainer.train_dataloader is None:  # a subclass has made its optimizer itself
            self._resumption.before_loaders(self)
        # Callbacks that add parameter groups have put theirs back by now; the optimizer gets its state after this.
        checkpoint, self._resumed = self._resumed, {}
        save_with_own_scores(self.trainer, checkpoint, self._resumption.loaded_metrics)
        self._skipped_steps = SkippedSteps(self.max_skipped_steps)
        self._skipped_steps.load(checkpoint.get("skipped_steps", (0, 0, False)))
        if checkpoint and len(self.trainer.optimizers) == 1:
            check_schedule(checkpoint, self.trainer.lr_scheduler_configs, self.lr_scheduler is not None)
            check_optimizer_state(checkpoint, self.trainer.optimizers[0])
            self._given_options.resume(checkpoint, self._learning_rates.has_new_length)
            keep_precision(self.trainer.optimizers[0], checkpoint)
        self._modes.begin(self.trainer, checkpoint.get("training_weights", []))
        prepare_averages(self.trainer)
        treated = {"scales_gradients": self._has_scaler, "clips_gradients": self.gradient_clip is not None}
        for optimizer in self.trainer.optimizers:
            # A subclass may have made it itself, of groups of its own.
            check_combination(optimizer, ParamGroups(), has_schedule=False, **treated)
            if hasattr(optimizer, "keeps_gradients"):
                optimizer.keeps_gradients = False  # the next step computes its own

    def on_train_start(self) -> None:
        refuse_batch_sizes_in_training(self.trainer)
        if self.trainer.ckpt_path:
            check_moved_parameters(self._single_optimizer().optimizer, self)
        check_rate_monitor(self.trainer)
        if self._is_searching:
            self._skipped_steps = SkippedSteps(math.inf)  # a search for a rate ends where the loss diverges
        elif self._learning_rates.at_train_start(self.trainer):
            self._given_options.take_rates(self._learning_rates.rates)
        # An interrupted run has left batches that waited for their step, and its place within an epoch.
        self._pending_batches, place = self._resumption.at_train_start(self)
        self._learning_rates.resume_in_epoch(self, place)
        # Lightning calls no on_train_epoch_start in a run that is resumed within an epoch.
        self._modes.train(self.trainer.optimizers)
        self._buffers_that_move, self._sharded_modules = moving_buffers(self), sharded_modules(self)
        self._generators_within, self._metrics_within = generators_within(self.modules()), metrics_within(self)
        self._own_step_size, self._logged_skipped = OwnStepSize(), None

    def on_train_epoch_start(self) -> None:
        self._modes.train(self.trainer.optimizers)
        self._resumption.at_epoch_start(self)
        self._learning_rates.at_epoch_start()

    def on_train_end(self) -> None:
        allow_batch_sizes(self.trainer)
        self._skipped_steps.finish()

    def on_train_epoch_end(self) -> None:
        # Lightning calls this hook within an epoch too, where the run stops there.
        if self.trainer.is_last_batch:
            self._learning_rates.at_epoch_end(self)
        self._modes.evaluate(self.trainer.optimizers)

    def on_validation_model_zero_grad(self) -> None:
        super().on_validation_model_zero_grad()
        self._resumption.before_validation(self)

    def on_validation_start(self) -> None:
        self._modes.evaluate(self.trainer.optimizers)

    def on_test_start(self) -> None:
        self._modes.evaluate(self.trainer.optimizers)  # a fit that an error ended has left its training weights

    def on_predict_start(self) -> None:
        self._modes.evaluate(self.trainer.optimizers)

    def on_validation_end(self) -> None:
        if self.trainer.state.fn == "fit" and not self.trainer.sanity_checking:
            self._learning_rates.after_validation()
            self._modes.train(self.trainer.optimizers)

    # Lightning puts the attribute `training` of each module back, past what a module does in a `train` of its own.

    def on_validation_model_eval(self) -> None:
        self._modes_before_evaluation = training_modes(self)
        super().on_validation_model_eval()

    def on_validation_model_train(self) -> None:
        self._restore_modes()

    def on_test_model_eval(self) -> None:
        self._modes_before_evaluation = training_modes(self)
        super().on_test_model_eval()

    def on_test_model_train(self) -> None:
        self._restore_modes()

    def on_predict_model_eval(self) -> None:
        self._modes_before_evaluation = training_modes(self)
        super().on_predict_model_eval()

    def on_predict_end(self) -> None:
        self._restore_modes()

    def _restore_modes(self) -> None:
        modes, self._modes_before_evaluation = self._modes_before_evaluation, {}
        restore_modes(modes or dict.fromkeys(self.modules(), True))  # a subclass may override either hook alone

    # Checkpoints

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **kwargs: Any) -> Self:
        # Without a trainer there is no plugin that looks at the file.
        found = check_file(checkpoint_path, is_trusted=kwargs.get("weights_only") is False)
        if kwargs.get("hparams_file") is None and len(args) < 2:  # which is the second of Lightning's own arguments
            check_arguments(found, cls, kwargs)
        return super().load_from_checkpoint(checkpoint_path, *args, **kwargs)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        keep_plain_hyperparameters(checkpoint, signature(ClosureModule.__init__).parameters)
        checkpoint["optimizer_names"] = [type(optimizer).__name__ for optimizer in self.trainer.optimizers]
        checkpoint[SCHEDULES] = names_of(self.trainer.lr_scheduler_configs)
        checkpoint["fit_start"] = list(self._fit_start)
        checkpoint["skipped_steps"] = self._skipped_steps.state()
        checkpoint[WAITING] = waiting_saves(self.trainer)
        self._learning_rates.save(checkpoint)
        self._given_options.save(checkpoint)
        self._modes.save(checkpoint, self.trainer)
        place = self._learning_rates.place_in_epoch(self.trainer)
        self._resumption.save(checkpoint, self, self._pending_batches, place)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        check_entries(checkpoint)
        is_fit = self._trainer is not None and self.trainer.state.fn == "fit"
        check_loadable(checkpoint, self, type(self.trained_module).__name__, is_fit)
        if self._trainer is not None and isinstance(self.trainer.precision_plugin, DoublePrecision):
            # Lightning 2.6.6 would do so after it has loaded the weights, rounded to float32.
            self.trainer.precision_plugin.convert_module(self)
        self._take_checkpoint(checkpoint if is_fit else {})
        if self._trainer is None:
            return
        carry_over_best(self._trainer, checkpoint)
        keep_given_patience(self._trainer, checkpoint)
        if self._is_searching and not self._trainer.strategy.restore_checkpoint_after_setup:
            # Lightning's Tuner restores the state before its search. It is no checkpoint of a run to go on from: of it
            # the random numbers alone are taken.
            self._trainer.ckpt_path, self._resumed = None, {}
            self._learning_rates.load({})

    def _take_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take what a fit is about to go on from; of an empty checkpoint, nothing."""
        self._resumed = checkpoint
        self._resumption.load(checkpoint)
        self._learning_rates.load(checkpoint)


def _configure_and_note(module: ClosureModule) -> Any:
    configuration = type(module).configure_optimizers(module)
    monitor = module._learning_rates.own_monitor = monitor_in(configuration)
    if monitor is not None:
        ignore_dropped_monitor()
    return configuration
