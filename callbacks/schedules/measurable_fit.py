"""Refusing fits in which a learning rate cannot be measured, or other code sets it as well."""

from __future__ import annotations

import inspect

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import BackboneFinetuning, LearningRateFinder, StochasticWeightAveraging
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.optim import Optimizer

from callbacks.schedules.gradual_unfreezing import GradualUnfreezing
from callbacks.schedules.schedule_by_seconds import ScheduleBySeconds
from callbacks.trainer.trainer_callbacks import callbacks_of
from optimizers import traits
from optimizers.step_direction import parameters_of

_SET_RATES = (BackboneFinetuning, StochasticWeightAveraging, LearningRateFinder, ScheduleBySeconds)


def refusal(what: str) -> MisconfigurationException:
    """Return the error for a fit in which a learning rate cannot be measured.

    Args:
        what: What stands in the way, and what to do.
    """
    return MisconfigurationException(f"MeasuredLearningRate: {what}")


def check_trainer(trainer: Trainer) -> None:
    """Refuse a trainer that shards parameters, or whose callbacks set rates or unfreeze parameters of the optimizer."""
    if isinstance(trainer.strategy, DeepSpeedStrategy | FSDPStrategy | ModelParallelStrategy):
        raise refusal(
            f"{type(trainer.strategy).__name__} shards the parameters, which the measurement does not go with; train "
            "with ddp, or leave the callback out"
        )
    for callback in callbacks_of(trainer, Callback):
        if isinstance(callback, _SET_RATES):
            raise refusal(f"{type(callback).__name__} sets the learning rate as well; leave one of them out")
        if isinstance(callback, GradualUnfreezing):
            raise refusal(
                "GradualUnfreezing lets more of the model train later, for which the rate measured at first "
                "says nothing; leave one of them out"
            )


def check_module(module: LightningModule) -> None:
    """Refuse a module whose loss of a step cannot be computed again."""
    name = type(module).__name__
    if not module.automatic_optimization and not hasattr(module, "step_closures"):
        raise refusal(
            f"{name} makes its steps itself (automatic_optimization = False), so that their loss cannot be computed "
            "again; use automatic optimization or a ClosureModule, or leave the callback out"
        )
    if "dataloader_iter" in inspect.signature(module.training_step).parameters:
        raise refusal(
            f"{name}.training_step takes its batches from dataloader_iter, and cannot be called again for the same "
            "one; let it take batch"
        )


def check_optimizer(optimizer: Optimizer, trainer: Trainer) -> None:
    """Refuse an optimizer without a learning rate to set, or without a direction to measure along."""
    name = type(optimizer).__name__
    if not parameters_of(optimizer):
        raise refusal("there is no optimizer with parameters to measure a learning rate of; leave the callback out")
    if traits(optimizer).sets_step_size or not traits(optimizer).needs_gradient:
        raise refusal(f"{name} finds its own step size; leave the callback out")
    if any(group.get("lr") is None for group in optimizer.param_groups):
        raise refusal(f"{name} keeps no learning rate (lr) in its groups to set; leave the callback out")
    if any(group.get("maximize") for group in optimizer.param_groups):
        raise refusal(f"{name} maximizes, and a learning rate is measured downhill; minimize minus the loss")
    _, *arguments = inspect.signature(type(optimizer).step).parameters.values()
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    for argument in arguments:
        needed = argument.default is inspect.Parameter.empty and argument.kind not in variable
        if needed:
            raise refusal(
                f"{name} computes the loss several times in a step ({argument.name} is required), which has no "
                "direction of its own to measure along; choose another optimizer"
            )
    if _multiplies_a_rate_of_its_own(type(optimizer)):
        raise refusal(
            f"{name} finds its own learning rate, of which lr is a factor (its default is 1); leave the callback out"
        )
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    if scaler is not None and getattr(optimizer, "_step_supports_amp_scaling", False):
        raise refusal(f"a fused {name} unscales the gradients of 16-mixed itself; give it fused=False, or use bf16")


def _multiplies_a_rate_of_its_own(made: type[Optimizer]) -> bool:
    """Return whether an optimizer's learning rate is 1 by default, as of those that find the rate themselves.

    Prodigy, D-Adaptation, DoG, MoMo and Adadelta say so in their documentation, each to leave it at 1. What they do in
    a step is in proportion to it, as to any learning rate.
    """
    rate = inspect.signature(made).parameters.get("lr")
    return rate is not None and isinstance(rate.default, (int, float)) and rate.default == 1
