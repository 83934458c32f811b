"""Refusing a checkpoint that is not whole, or of another model or optimizer, before torch loads it silently."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import rank_zero_info
from packaging.version import InvalidVersion, Version
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_modules.checkpoints.loop_counters import check_counters
from lightning_modules.errors import ModelError

# What entries of a checkpoint are, where they are there.
_KINDS: dict[str, tuple[type | tuple[type, ...], str]] = {
    "pytorch-lightning_version": (str, "text"),
    "epoch": (int, "number"),
    "global_step": (int, "number"),
    "state_dict": (Mapping, "dict"),
    "hyper_parameters": (Mapping, "dict"),
    "datamodule_hyper_parameters": (Mapping, "dict"),
    "loops": (Mapping, "dict"),
    "callbacks": (Mapping, "dict"),
    "optimizer_states": (list, "list"),
    "optimizer_names": (list, "list"),
    "lr_schedulers": (list, "list"),
    "schedule_names": (list, "list"),
    "given_options": (list, "list"),
    "fit_start": (list, "list"),
    "waiting_saves": (list, "list"),
    "skipped_steps": ((list, tuple), "list"),
    "run_length": ((list, tuple), "list"),
    "resumption": (Mapping, "dict"),
    "task": (Mapping, "dict"),
}
# What a run goes on from beside the weights; Lightning starts anew, or stops with a KeyError, where one is absent.
_TO_RESUME = ("optimizer_states", "lr_schedulers", "loops", "callbacks")


def is_distributed(checkpoint: dict[str, Any]) -> bool:
    """Return whether a strategy that shards the model has loaded and compared the weights by itself."""
    return "loops" in checkpoint and "state_dict" not in checkpoint


def check_entries(checkpoint: Mapping[str, Any]) -> None:
    """Check that the entries of a checkpoint are of the kind that is read of them, before any of them is read.

    Args:
        checkpoint: A Lightning checkpoint.

    Raises:
        ModelError: if one is not; it names the entry, what it is and what it has to be.
    """
    for name, (kind, word) in _KINDS.items():
        if name in checkpoint and not isinstance(checkpoint[name], kind):
            raise ModelError(
                f"ckpt_path: {name} of the checkpoint is a {type(checkpoint[name]).__name__}, not a {word}"
            )
    version = checkpoint.get("pytorch-lightning_version", "0")
    try:
        Version(version)
    except InvalidVersion as error:
        raise ModelError(
            f"ckpt_path: pytorch-lightning_version of the checkpoint is {version!r}, not a version such as 2.6.6"
        ) from error


def check_loadable(checkpoint: dict[str, Any], module: LightningModule, model: str, is_fit: bool) -> None:
    """Check that a checkpoint's weights are those of a module and, for a fit, that it can go on from it.

    Args:
        checkpoint: A Lightning checkpoint.
        module: The module; tensors may be absent or added where it is not ``strict_loading``.
        model: What the model is called in the error.
        is_fit: Whether a fit resumes from the checkpoint.

    Raises:
        ModelError: if it cannot be loaded so.
    """
    if module.strict_loading:
        check_architecture(checkpoint, module.state_dict(), model)
    check_weights(checkpoint, dict(module.named_parameters()))
    if is_fit:
        check_resumable(checkpoint)


def check_resumable(checkpoint: dict[str, Any]) -> None:
    """Check that a checkpoint holds all that a run goes on from.

    Args:
        checkpoint: A Lightning checkpoint.

    Raises:
        ModelError: if it does not; it names what is absent, or the classes that were not read.
    """
    if is_distributed(checkpoint):
        check_counters(checkpoint)
        return
    absent = [name for name in _TO_RESUME if name not in checkpoint]
    if "interpolation" in checkpoint:
        raise ModelError(
            "ckpt_path: the checkpoint's weights lie between the pretrained and the trained ones (interpolation): fit "
            "cannot go on from it, but from the run's other checkpoints"
        )
    if checkpoint.get("unread_classes") and absent:
        names = ", ".join(checkpoint["unread_classes"])
        raise ModelError(
            f"ckpt_path: {absent[0]} of the checkpoint cannot be read without running code: it holds {names}; its "
            "weights can be validated, and a run goes on from it once torch.serialization.add_safe_globals allows that"
        )
    if absent:
        raise ModelError(
            f"ckpt_path: the checkpoint has no {absent[0]}, as under save_weights_only: fit cannot go on from it, "
            "validate and predict can use its weights"
        )
    check_counters(checkpoint)


def check_task(
    checkpoint: Mapping[str, Any], num_labels: int, label_names: Sequence[str], problem_type: str, is_fit: bool
) -> None:
    """Refuse a checkpoint of another task, such as the last one of an experiment with runs of several tasks.

    Args:
        checkpoint: A Lightning checkpoint.
        num_labels: Number of the module's labels.
        label_names: Their names; none for a regression.
        problem_type: The module's kind of task.
        is_fit: Whether a fit resumes from the checkpoint, which then needs the same names, too.

    Raises:
        ModelError: if it is of another task; it names both and the way out.
    """
    stored = checkpoint.get("hyper_parameters", {})
    if "num_labels" not in stored:
        return  # of a subclass that saves other hyperparameters
    names = list(stored.get("label_names") or ())
    count = len(names) or stored["num_labels"]
    kind = (checkpoint.get("task") or {}).get("problem_type") or stored.get("problem_type") or problem_type
    have_other_names = bool(names and label_names) and [*map(str.lower, names)] != [*map(str.lower, label_names)]
    if count == num_labels and kind == problem_type and not (is_fit and have_other_names):
        return
    task = checkpoint.get("datamodule_hyper_parameters", {}).get("task_name")
    described = _task_in_words(count, names, kind)
    raise ModelError(
        f"ckpt_path: the checkpoint is of another task, {f'{task}: ' if task else ''}{described}, than this run's, "
        f"{_task_in_words(num_labels, label_names, problem_type)}; keep the runs of each task under another name "
        "(trainer.logger.init_args.name), or give the config.yaml of the checkpoint's run"
    )


def _task_in_words(num_labels: int, names: Sequence[str], problem_type: str) -> str:
    if problem_type == "regression":
        return "a regression"
    several = " per text, several" if problem_type == "multi_label_classification" else ""
    shown = ", ".join(names[:5]) + ", ..." * (len(names) > 5)
    return f"{num_labels} labels{several}" + (f" ({shown})" if names else "")


def check_weights(checkpoint: dict[str, Any], parameters: Mapping[str, Tensor]) -> None:
    """Check that no weight in a checkpoint is NaN, or of a type that torch would cut down to the parameter's.

    Args:
        checkpoint: A Lightning checkpoint.
        parameters: The module's parameters by name; buffers may hold what they like.

    Raises:
        ModelError: if one is; it names the parameter.
    """
    for name, stored in checkpoint.get("state_dict", {}).items():  # a distributed one has it elsewhere
        if name not in parameters or not isinstance(stored, Tensor):
            continue
        if _kind_of_numbers(stored) != _kind_of_numbers(parameters[name]):
            raise ModelError(
                f"ckpt_path: {name} is of {stored.dtype} in the checkpoint and of {parameters[name].dtype} in the model"
            )
        if stored.is_floating_point() and stored.isnan().any():
            raise ModelError(f"ckpt_path: the checkpoint's weights are damaged or of a diverged run: {name} holds NaN")


def _kind_of_numbers(tensor: Tensor) -> str:
    """Return of which kind a tensor's numbers are; floating-point ones of any precision are alike."""
    return "complex" if tensor.is_complex() else "real" if tensor.is_floating_point() else str(tensor.dtype)


def check_architecture(checkpoint: dict[str, Any], expected: Mapping[str, Tensor], model: str) -> None:
    """Check that a checkpoint's tensors are those of a model, by name and shape.

    Args:
        checkpoint: A Lightning checkpoint.
        expected: The module's own state.
        model: What the model is called in the error.

    Raises:
        ModelError: if they are not; it names the first tensor that differs.
    """
    if is_distributed(checkpoint):
        return
    stored = checkpoint["state_dict"]
    for name in sorted(stored.keys() | expected.keys()):
        found, wanted = _shape(stored, name), _shape(expected, name)
        if found != wanted:
            raise ModelError(
                f"ckpt_path: the checkpoint is of another architecture than {model}: {name} is {found} in the "
                f"checkpoint and {wanted} in the model"
            )


def _shape(state: Mapping[str, Any], name: str) -> Any:
    """Return the shape of a tensor of a module's state; `nn.Module.get_extra_state` may put anything else there."""
    if name not in state:
        return "absent"
    return tuple(state[name].shape) if isinstance(state[name], Tensor) else f"of type {type(state[name]).__name__}"


def check_optimizer_state(checkpoint: dict[str, Any], optimizer: Optimizer) -> None:
    """Check that a checkpoint's optimizer state is one that an optimizer can go on from.

    Torch loads the state of one optimizer into another without a word, step sizes and all.

    Args:
        checkpoint: A Lightning checkpoint that a fit resumes from.
        optimizer: The run's optimizer, freshly made. Its method ``check_state``, where it has one, raises a ValueError
            for a state that it cannot load.

    Raises:
        ModelError: if the state is of another optimizer, of an older version of it, or of other parameter groups.
    """
    if is_distributed(checkpoint):
        return
    if not checkpoint["optimizer_states"]:
        raise ModelError("ckpt_path: the checkpoint holds the state of no optimizer: fit cannot go on from it")
    (stored,), name = checkpoint.get("optimizer_names", [None]), type(optimizer).__name__
    if stored not in (None, name):
        raise ModelError(
            f"ckpt_path: the checkpoint's optimizer is {stored}, the run's is {name}; resume with {stored}"
        )
    if "param_groups" not in optimizer.state_dict():
        return  # a wrapper around another optimizer (pytorch_optimizer's Lookahead), with a form of its own
    state = checkpoint["optimizer_states"][0]
    try:
        getattr(optimizer, "check_state", lambda state: None)(state)
        both = state["param_groups"], optimizer.param_groups
        theirs, ours = ([len(group["params"]) for group in groups] for groups in both)
        absent = _absent_options(state["param_groups"], optimizer)
        entries = dict(state["state"])
    except ValueError as error:
        raise ModelError(f"ckpt_path: {error}") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"ckpt_path: the checkpoint's state of {name} is not whole: {error!r}") from error
    if theirs != ours:
        raise ModelError(
            f"ckpt_path: the checkpoint's optimizer has groups of {theirs} tensors, the run's of {ours}; resume with "
            "the checkpoint's param_groups, trainable and adapter"
        )
    if absent:
        raise ModelError(f"ckpt_path: the checkpoint's state of {name} is not whole: its groups lack {absent[0]}")
    _check_options(state["param_groups"], optimizer)
    _check_entries(state["param_groups"], entries, optimizer)


def check_moved_parameters(optimizer: Optimizer, module: nn.Module) -> None:
    """Check that an optimizer, its state loaded, still moves a module's parameters.

    torchzero 0.4.4 keeps the parameters themselves in its state, and takes the checkpoint's in place of the model's.

    Args:
        optimizer: The optimizer of a run that resumes.
        module: The module that trains.

    Raises:
        ModelError: if one of its parameters is not the module's.
    """
    own = {id(parameter) for parameter in module.parameters()}
    if any(id(parameter) not in own for group in optimizer.param_groups for parameter in group["params"]):
        raise ModelError(
            f"ckpt_path: {type(optimizer).__name__} cannot be resumed: with its state it takes the checkpoint's "
            "parameters in place of the model's; start anew, or choose another optimizer"
        )


def _absent_options(stored: list[dict[str, Any]], optimizer: Optimizer) -> list[str]:
    """Return the options of an optimizer's groups that stored ones lack and that its class does not fill in."""
    if "param_groups" not in vars(optimizer):
        return []  # the groups of an optimizer that it wraps (pytorch_optimizer's TRAC), which a copy would be without
    filled = copy.copy(optimizer)  # shares the state; its groups are replaced
    filled.__setstate__({"state": {}, "param_groups": [dict(group) for group in stored]})
    pairs = zip(optimizer.param_groups, filled.param_groups, strict=False)
    return sorted({name for own, found in pairs for name in own.keys() - found.keys()})


def _check_options(groups: list[dict[str, Any]], optimizer: Optimizer) -> None:
    """Check that the options in stored groups are numbers or sequences where the optimizer's own are."""
    for own, stored in zip(optimizer.param_groups, groups, strict=True):
        for name in own.keys() & stored.keys() - {"params"}:
            value, found = own[name], stored[name]
            is_right = True
            if isinstance(value, tuple | list):
                is_right = isinstance(found, tuple | list)
            elif name == "lr" and isinstance(value, int | float):
                is_right = isinstance(found, int | float | Tensor) and math.isfinite(found)
            elif isinstance(value, int | float):
                is_right = isinstance(found, int | float | Tensor | None)
            if not is_right:
                raise ModelError(
                    f"ckpt_path: the checkpoint's state of {type(optimizer).__name__} is damaged: {name} of a group is "
                    f"{found!r}, of the run's {value!r}"
                )


def _check_entries(groups: list[dict[str, Any]], entries: dict[Any, Any], optimizer: Optimizer) -> None:
    """Check that the moments in an optimizer's state are there and of their parameter's shape."""
    missing, name = 0, type(optimizer).__name__
    # Others keep moments of these names in other shapes, or of some parameters alone.
    is_known = type(optimizer).__module__.startswith("torch.optim.") or hasattr(optimizer, "check_state")
    moments = {"exp_avg", "exp_avg_sq"} & set().union(*entries.values()) if is_known else set()
    for stored, own in zip(groups, optimizer.param_groups, strict=True):
        found = {index: entries[index] for index in stored["params"] if entries.get(index)}
        missing += len(stored["params"]) - len(found) if found else 0
        for index, parameter in zip(stored["params"], own["params"], strict=True):
            _check_moments(found.get(index, {}), moments, parameter, f"the checkpoint's state of {name}", index)
    if missing:
        rank_zero_info(
            f"{missing} parameters have no state of {name} in the checkpoint, as before a first step; it starts anew"
        )


def _check_moments(entry: dict[str, Any], moments: set[str], parameter: Tensor, state: str, index: Any) -> None:
    """Check the state of one parameter, which has all of an optimizer's moments or none of them."""
    there = moments & entry.keys()
    if not there:
        return
    if there != moments:
        (absent,) = moments - there
        raise ModelError(f"ckpt_path: {state} is not whole: parameter {index} lacks {absent}")
    for moment in sorted(there):
        shapes = _shape(entry, moment), tuple(parameter.shape)
        if shapes[0] != shapes[1]:
            raise ModelError(
                f"ckpt_path: {state} is not this model's: {moment} of parameter {index} is {shapes[0]}, the parameter "
                f"{shapes[1]}"
            )
        if _kind_of_numbers(entry[moment]) != _kind_of_numbers(parameter):
            raise ModelError(
                f"ckpt_path: {state} is damaged: {moment} of parameter {index} is of {entry[moment].dtype}"
            )
    if not isinstance(entry.get("step", 0), int | float | Tensor):
        raise ModelError(f"ckpt_path: {state} is damaged: step of parameter {index} is {entry['step']!r}")
