"""Making the optimizer of a module, of any package, by what its factory's signature says, and checking it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from torch.optim import Optimizer

from lightning_modules.errors import ModelError
from lightning_modules.models.sharded_model import sharded_modules
from lightning_modules.steps.combinations import check_combination
from lightning_modules.steps.factories import is_installed, made_by, name_of, parameters_of, unset_keywords
from lightning_modules.steps.fused import fused_keywords
from lightning_modules.steps.optimizer_calls import check_step
from lightning_modules.steps.own_step_size import check_rate_writers
from lightning_modules.trainer.run_length import RunLength
from optimizers import ParamGroups, scale_learning_rates
from optimizers.shards import complete_state

if TYPE_CHECKING:
    from lightning_modules.closure_module import ClosureModule

_OF_AN_OPTIMIZER = ("step", "param_groups", "state_dict")


def make_optimizer(
    module: ClosureModule, length: RunLength, keywords: Mapping[str, Any], scales_gradients: bool
) -> Optimizer:
    """Make the optimizer of a module for a fit, and refuse one that does not go with what else the fit is made of.

    Args:
        module: The module; its ``optimizer`` is a class, a function or a partial of one.
        length: The length of the run, which fills in what the factory leaves open of it.
        keywords: Further arguments of the factory.
        scales_gradients: Whether a gradient scaler runs the steps, as with ``precision: 16-mixed``.

    Raises:
        ModelError: if the module cannot be divided as asked, if the optimizer refuses its arguments, or if a training
            step, a schedule, a callback or another option does not go with it.
    """
    factory, trainer, trained = module.optimizer, module.trainer, module.trained_module
    known = {"steps_per_epoch": length.steps_per_epoch, "total_steps": length.total_steps}
    fused = fused_keywords(factory, trained, trainer.strategy.root_device, scales_gradients)
    groups = _division(module)
    optimizer = _made_with_groups(module, groups, {**unset_keywords(factory, known), **keywords, **fused})
    treated = {"scales_gradients": scales_gradients, "clips_gradients": module.gradient_clip is not None}
    check_step(optimizer, ranks=trainer.world_size, **treated)
    check_combination(optimizer, groups, has_schedule=module.lr_scheduler is not None, **treated)
    check_rate_writers(optimizer, module)
    try:
        scale_learning_rates(optimizer)
    except ValueError as error:
        raise ModelError(f"param_groups: {error}") from error
    if optimizer.state and sharded_modules(module):
        complete_state(optimizer)
    return optimizer


def _division(module: ClosureModule) -> ParamGroups:
    """Return how a module is divided; where that says nothing of rates, new parameters get the optimizer's factor."""
    division = module.param_groups or ParamGroups()
    if division.sets_rates:
        return division
    return replace(division, new_lr_factor=getattr(made_by(module.optimizer), "new_lr_factor", None))


def _made_with_groups(module: ClosureModule, division: ParamGroups, keywords: Mapping[str, Any]) -> Optimizer:
    """Return the optimizer of a module's parameter groups.

    A factory with an argument ``model`` gets the trained module, one with an argument ``params`` or any other first
    argument the parameter groups. One that takes one group alone gets it, as long as nobody has asked for a division.
    """
    factory: Callable[..., Optimizer] = module.optimizer
    trained, is_asked_for = module.trained_module, module.param_groups is not None
    takes_model, takes_groups = _arguments(factory)
    if is_asked_for and not takes_groups:
        name = name_of(factory)
        raise ModelError(f"param_groups: {name} makes its own groups from the model; leave param_groups out")
    try:
        groups = division(trained, module.new_parameter_names, module.module_order)
    except ValueError as error:
        raise ModelError(f"param_groups: {error}") from error
    if takes_model:
        make = partial(factory, trained, params=groups) if takes_groups else partial(factory, trained)
        return _made(make, factory, keywords)
    try:
        return _made(partial(factory, groups), factory, keywords)
    except ModelError:
        # torch's LBFGS takes one group alone; a model's default is two, with and without weight decay.
        if is_asked_for or len(groups) == 1:
            raise
        together = ParamGroups(decay_norm_and_bias=True)(trained, module.new_parameter_names, module.module_order)
        try:
            return _made(partial(factory, together), factory, keywords)
        except ModelError:
            pass  # it is something else, which the first error is about
        raise


def _arguments(factory: Callable[..., Any]) -> tuple[bool, bool]:
    """Return whether a factory takes a model, and whether it takes parameter groups."""
    names = list(parameters_of(factory))
    takes_model = bool(names) and names[0] == "model"
    return takes_model, not takes_model or "params" in names


def _made(make: Callable[..., Optimizer], factory: Callable[..., Any], keywords: Mapping[str, Any]) -> Optimizer:
    try:
        made = make(**keywords)
    except Exception as error:
        if isinstance(error, (TypeError, ValueError, NotImplementedError)) or is_installed(factory):
            name = "" if name_of(factory) in str(error) else f"{name_of(factory)}: "
            raise ModelError(f"optimizer: {name}{error}") from error
        raise
    if not isinstance(made, Optimizer) and not all(hasattr(made, name) for name in _OF_AN_OPTIMIZER):
        raise ModelError(f"optimizer: {name_of(factory)} has made a {type(made).__name__}, which is no optimizer")
    return made
