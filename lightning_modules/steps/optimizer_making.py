"""Making the optimizer of a module, of any package, by what its factory's signature says."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from torch import nn
from torch.optim import Optimizer

from lightning_modules.errors import ModelError
from lightning_modules.steps.factories import is_installed, name_of, parameters_of
from optimizers import ParamGroups

_OF_AN_OPTIMIZER = ("step", "param_groups", "state_dict")


def make_optimizer(
    factory: Callable[..., Optimizer],
    module: nn.Module,
    division: ParamGroups | None,
    keywords: Mapping[str, Any],
    *,
    new_parameter_names: Sequence[str],
    module_order: Sequence[str],
) -> Optimizer:
    """Make the optimizer of a module.

    A factory with an argument ``model`` gets the module, one with an argument ``params`` or any other first argument
    the parameter groups. One that takes one group alone gets it, as long as nobody has asked for a division.

    Args:
        factory: A class, a function or a partial of one.
        module: The module to train.
        division: Makes the groups. None: the default ones.
        keywords: Further arguments of the factory.
        new_parameter_names: Those of the module's parameters that came from no checkpoint.
        module_order: Names of the module's modules in the order in which they run; empty if that is unknown.

    Raises:
        ModelError: if the module cannot be divided so, or if the optimizer refuses its arguments.
    """
    takes_model, takes_groups = _arguments(factory)
    if division is not None and not takes_groups:
        name = name_of(factory)
        raise ModelError(f"param_groups: {name} makes its own groups from the model; leave param_groups out")
    try:
        groups = (division or ParamGroups())(module, new_parameter_names, module_order)
    except ValueError as error:
        raise ModelError(f"param_groups: {error}") from error
    if takes_model:
        make = partial(factory, module, params=groups) if takes_groups else partial(factory, module)
        return _made(make, factory, keywords)
    try:
        return _made(partial(factory, groups), factory, keywords)
    except ModelError:
        # torch's LBFGS takes one group alone; a model's default is two, with and without weight decay.
        if division is not None or len(groups) == 1:
            raise
        together = ParamGroups(decay_norm_and_bias=True)(module, new_parameter_names, module_order)
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
