"""Calling the step of an optimizer of any package, by what its signature and attributes say."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from traceback import walk_tb
from types import MethodType
from typing import Any
from weakref import WeakKeyDictionary

from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.optim import Optimizer

from lightning_modules.closures import StepClosures
from lightning_modules.errors import ModelError
from lightning_modules.steps.factories import is_installed

# Of these attributes each belongs to a training loop of the optimizer's own.
_OWN_LOOPS = {
    "fused_backward": "moves the parameters inside a backward pass of its own (fused_backward)",
    "set_closure": "calls the model itself, with a loss function that it is given (set_closure)",
    "pc_backward": "works on the gradients of several losses (pc_backward)",
    "backward": "runs the backward pass itself (backward)",
}

# Methods of StepClosures that a step gets where it has an argument of that name.
_OFFERED = ("evaluate", "evaluate_many", "loss_alone")


def check_step(optimizer: Optimizer, *, scales_gradients: bool, ranks: int, clips_gradients: bool) -> None:
    """Refuse an optimizer that a training step cannot serve, and prepare one that calls closures its own way.

    Args:
        optimizer: A freshly made optimizer.
        scales_gradients: Whether a gradient scaler runs the steps, as with ``precision: 16-mixed``.
        ranks: Number of processes.
        clips_gradients: Whether gradients are clipped before a step.

    Raises:
        ModelError: one sentence: what the optimizer needs, and what to do.
    """
    name, arguments = type(optimizer).__name__, _step_arguments(optimizer)
    for attribute, what in _OWN_LOOPS.items():
        if hasattr(optimizer, attribute):
            raise ModelError(f"optimizer: {name} {what}, which a training step here does not do; choose another one")
    kinds = {each.kind for each in arguments.values()}
    if "closure" not in arguments and not {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD} <= kinds:
        raise ModelError(f"optimizer: {name}.step takes no closure, which every step is given; choose another one")
    known = {"closure", "loss", *_OFFERED}
    unknown = [each for each, argument in arguments.items() if each not in known and _is_required(argument)]
    if unknown:
        raise ModelError(
            f"optimizer: {name}.step needs {', '.join(unknown)}, which a training step here does not give; choose "
            "another one"
        )
    if scales_gradients and (_needs_second_gradient(optimizer) or _needs_graph(optimizer)):
        raise ModelError(
            f"precision: {name} needs the gradient more than once in a step, which the scaler of 16-mixed does not "
            "allow; choose bf16-mixed or 32-true"
        )
    if _needs_graph(optimizer) and (ranks > 1 or clips_gradients):
        raise ModelError(
            f"optimizer: {name} differentiates the gradient, which is neither shared among ranks nor clipped before; "
            "train on one device, without gradient_clip"
        )
    if "evaluate" not in arguments and inspect.Parameter.VAR_KEYWORD in kinds:
        _let_closures_skip_backward(optimizer)


def _is_required(argument: inspect.Parameter) -> bool:
    variable = argument.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return argument.default is inspect.Parameter.empty and not variable


def _let_closures_skip_backward(optimizer: Optimizer) -> None:
    """Let an optimizer call ``closure(backward=False)``, as torchzero does, which Lightning's closures do not take."""
    own_step = optimizer.step

    def step(
        _: Optimizer, closure: Callable[[], Any] | None = None, *, loss_alone: Callable[[], Any], **others: Any
    ) -> Any:
        if closure is None:
            return own_step(**others)

        def either(backward: bool = True) -> Any:
            return closure() if backward else loss_alone()

        return own_step(either, **others)

    # A bound method: torch's schedules wrap it as one.
    optimizer.step = MethodType(step, optimizer)  # type: ignore[method-assign]


def step_keywords(optimizer: Optimizer, step: StepClosures, has_scaler: bool) -> dict[str, Any]:
    """Return what an optimizer's ``step`` is handed besides the closure.

    Args:
        optimizer: The optimizer.
        step: The loss of the step.
        has_scaler: Whether a gradient scaler runs the step, without the closure.
    """
    offered: dict[str, Any] = {name: getattr(step, name) for name in _OFFERED}
    arguments = _step_arguments(optimizer)
    if "evaluate" in arguments or has_scaler:
        offered["loss"] = step.loss  # an ordinary step takes a closure or a loss
    return {name: value for name, value in offered.items() if name in arguments}


@contextmanager
def step_context(optimizer: LightningOptimizer, is_first: bool) -> Iterator[None]:
    """Context of a step: second derivatives where they are needed, and one line for what fails in the first one.

    Args:
        optimizer: The optimizer, as Lightning wraps it.
        is_first: Whether it is the run's first step, in which an optimizer may turn out not to fit the model.

    Raises:
        ModelError: if an optimizer refuses the first step, or another package's fails in it on its own account.
    """
    needs_graph = _needs_graph(optimizer.optimizer)
    # Fused attention has no second derivative.
    attention: AbstractContextManager[Any] = sdpa_kernel(SDPBackend.MATH) if needs_graph else nullcontext()
    with attention, _first_step(optimizer.optimizer) if is_first else nullcontext():
        yield
    if needs_graph:
        optimizer.zero_grad()  # a gradient with a graph holds the activations


def backward_of(optimizer: Optimizer, backward: Callable[..., None]) -> Callable[..., None]:
    """Return a backward pass that keeps the gradient's graph where an optimizer differentiates it (AdaHessian)."""
    return partial(backward, create_graph=True) if _needs_graph(optimizer) else backward


# Every step asks several times, and reading a signature takes as long as a small kernel.
_ARGUMENTS_OF_STEPS: WeakKeyDictionary[Callable[..., Any], Mapping[str, inspect.Parameter]] = WeakKeyDictionary()


def _step_arguments(optimizer: Optimizer) -> Mapping[str, inspect.Parameter]:
    """Return the arguments of an optimizer's ``step``, by name."""
    function = getattr(optimizer.step, "__func__", optimizer.step)
    if function not in _ARGUMENTS_OF_STEPS:
        _ARGUMENTS_OF_STEPS[function] = inspect.signature(optimizer.step).parameters
    return _ARGUMENTS_OF_STEPS[function]


def _needs_graph(optimizer: Optimizer) -> bool:
    # timm's attribute; pytorch_optimizer's take an estimate of the Hessian in place of the graph.
    is_second_order = getattr(optimizer, "is_second_order", False)
    return bool(is_second_order) or "hessian" in _step_arguments(optimizer)


def _needs_second_gradient(optimizer: Optimizer) -> bool:
    """Whether a step moves the parameters and calls the closure again (SAM)."""
    return callable(getattr(optimizer, "first_step", None))


@contextmanager
def _first_step(optimizer: Optimizer) -> Iterator[None]:
    """Say in one line why an optimizer does not go with a model, where its first step tells.

    Of ours that is what they refuse, a ValueError; of another package's any error. Errors of the loss stay as they are.
    """
    try:
        yield
    except Exception as error:
        frames = [frame for frame, _ in walk_tb(error.__traceback__)]
        of_loss = any(frame.f_code.co_filename == inspect.getfile(StepClosures) for frame in frames)
        raised_in = str(frames[-1].f_globals.get("__name__"))
        is_refusal = isinstance(error, ValueError) and raised_in.startswith("optimizers.")
        if isinstance(error, (ModelError, MisconfigurationException)) or of_loss:
            raise
        if not is_refusal and not is_installed(type(optimizer)):
            raise
        # It is chosen where nobody has chosen another form.
        way_out = "; try fused: false" if any(group.get("fused") for group in optimizer.param_groups) else ""
        raise ModelError(
            f"optimizer: {type(optimizer).__name__} does not go with this model and these param_groups; its first step "
            f"ends in {type(error).__name__}: {error}{way_out}"
        ) from error
