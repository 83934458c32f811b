"""Adapters: a frozen model with a few new parameters in it, by peft or as bottleneck adapters."""

import json
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from lightning_modules.adapter_check import check_adapter_acts
from lightning_modules.bottleneck_adapter import (
    ADAPTER_TYPE,
    CONFIG_FILE,
    BottleneckConfig,
    add_bottleneck_adapters,
    load_bottleneck_weights,
    read_bottleneck_config,
    save_bottleneck_adapters,
)
from lightning_modules.errors import ModelError
from lightning_modules.trainable_parts import head_names, new_beside_old

if TYPE_CHECKING:
    from peft import PeftConfig
else:
    try:
        from peft import PeftConfig
    except ImportError:  # peft is an extra; without it there are the bottleneck adapters

        class PeftConfig:
            """Empty class where peft is not installed; nothing is an instance of it."""


AdapterConfig = PeftConfig | BottleneckConfig


class AdaptedModel:
    """A model with an adapter, as :func:`add_adapter` makes it.

    Args:
        model: The model that trains and predicts.
        new_parameter_names: Those of its parameters that came from no checkpoint.
        config: The adapter's configuration.
    """

    def __init__(self, model: nn.Module, new_parameter_names: Sequence[str], config: AdapterConfig) -> None:
        self.model = model
        self.new_parameter_names = tuple(new_parameter_names)
        self.config = config
        # Taken now: gradual unfreezing may freeze some of these parameters for a while.
        self._names = {name for name, parameter in model.named_parameters() if parameter.requires_grad}

    def save(self, folder: str | Path) -> None:
        """Write the adapter and the head: in peft's own format, or the same layout for bottleneck adapters.

        Args:
            folder: Where to write; made if it does not exist.
        """
        if isinstance(self.config, BottleneckConfig):
            save_bottleneck_adapters(self.model, self._names, self.config, folder)
        else:
            self.model.save_pretrained(str(folder))  # type: ignore[operator]

    @property
    def can_merge(self) -> bool:
        """Whether the adapter can be worked into the weights of the original architecture."""
        tuner = getattr(self.model, "base_model", None)
        return not isinstance(self.config, BottleneckConfig) and hasattr(tuner, "merge_and_unload")

    def merge(self) -> nn.Module:
        """Return the model of the original architecture with the adapter merged into its weights; uses ``model`` up.

        Raises:
            ModelError: if this kind of adapter cannot be merged into weights.
        """
        if not self.can_merge:
            kind = getattr(self.config, "peft_type", None) or type(self.config).__name__
            raise ModelError(
                f"adapter: a {getattr(kind, 'value', kind)} adapter cannot be merged into the model's weights"
            )
        return self.model.merge_and_unload()  # type: ignore[operator]


def add_adapter(
    model: nn.Module, adapter: AdapterConfig | str, new_parameter_names: Sequence[str] = (), order: Sequence[str] = ()
) -> AdaptedModel:
    """Freeze a model and add an adapter to it, which trains together with the head.

    Of the head those modules train that hold new parameters; all of it, if none of it is new.

    Args:
        model: A sequence classifier; changed in place.
        adapter: A configuration of peft (``peft.LoraConfig``, ``peft.IA3Config``, …) or a
            :class:`~lightning_modules.BottleneckConfig`, for a new adapter; or the folder of a saved one.
        new_parameter_names: Those of the model's parameters that came from no checkpoint.
        order: The order in which the model's modules run, of :func:`~optimizers.call_order`.

    Raises:
        ModelError: if the adapter does not fit the model or the folder holds none.

    Example::

        adapted = add_adapter(model, peft.LoraConfig(r=8, target_modules=["query", "value"]), new_parameter_names)
    """
    try:
        if isinstance(adapter, str):
            return _load_adapter(model, adapter, set(new_parameter_names), order)
        heads = _head_modules(model, new_parameter_names, order)
        if isinstance(adapter, BottleneckConfig):
            added = add_bottleneck_adapters(model, adapter, order)
            for path in heads:
                model.get_submodule(path).requires_grad_(True)
            return AdaptedModel(model, [*new_parameter_names, *added], adapter)
        adapted = _add_peft_adapter(model, adapter, heads, set(new_parameter_names))
        if order:
            check_adapter_acts(adapted.model)
        return adapted
    except (ValueError, TypeError, OSError, RuntimeError, KeyError) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(f"adapter: {' '.join(str(error).split())}") from error


def _add_peft_adapter(model: nn.Module, config: Any, heads: list[str], new: set[str]) -> AdaptedModel:
    from peft import TaskType, get_peft_model

    if not isinstance(config, PeftConfig):
        raise ModelError(f"adapter: {type(config).__name__} is neither a configuration of peft nor a BottleneckConfig")
    config = deepcopy(config)  # the caller's stays as it was written
    if config.task_type is None:
        config.task_type = TaskType.SEQ_CLS
    if hasattr(config, "modules_to_save"):
        config.modules_to_save = sorted({*(config.modules_to_save or []), *heads})
    original = {name for name, _ in model.named_parameters()}
    linear = sorted(
        {path.rpartition(".")[2] for path, m in model.named_modules() if isinstance(m, (nn.Linear, Conv1D))}
    )
    try:
        wrapped = get_peft_model(model, config)
    except ValueError as error:
        raise ValueError(f"{error} The linear modules of this model are called {', '.join(linear)}.") from error
    names = [name for name, parameter in wrapped.named_parameters() if parameter.requires_grad]
    came_with_model = {name: _original_name(name) for name in names}
    added = [name for name in names if came_with_model[name] not in original or came_with_model[name] in new]
    return AdaptedModel(wrapped, added, config)


def _load_adapter(model: nn.Module, folder: str, new: set[str], order: Sequence[str]) -> AdaptedModel:
    path = Path(folder) / CONFIG_FILE
    if not path.is_file():
        raise ModelError(
            f"adapter: no {CONFIG_FILE} in {folder!r}; allowed: a folder with a saved adapter, or the class_path of a "
            "configuration (peft.LoraConfig, lightning_modules.BottleneckConfig, …)"
        )
    saved = json.loads(path.read_text(encoding="utf-8"))
    if saved.get("peft_type") == ADAPTER_TYPE:
        config = read_bottleneck_config(saved)
        new_in_head = head_names(model, order) & new | new_beside_old(model, new)
        add_bottleneck_adapters(model, config, order)
        load_bottleneck_weights(model, folder, new_in_head)
        return AdaptedModel(model, (), config)
    try:
        from peft import PeftModel
    except ImportError as error:
        raise ModelError(f'adapter: {folder!r} needs the extra "peft": pip install "linetune[peft]"') from error
    wrapped = PeftModel.from_pretrained(model, folder, is_trainable=True)
    return AdaptedModel(wrapped, (), wrapped.peft_config["default"])


def _head_modules(model: nn.Module, new_parameter_names: Sequence[str], order: Sequence[str]) -> list[str]:
    """Return the paths of the largest modules whose parameters are all of the trainable head or beside new ones."""
    head = head_names(model, order)
    owners = {name.rpartition(".")[0] for name in new_beside_old(model, new_parameter_names)}
    beside_new = {name for name, _ in model.named_parameters() if name.rpartition(".")[0] in owners}
    chosen = (head & set(new_parameter_names) or head) | beside_new
    paths: list[str] = []
    for path, module in model.named_modules():
        names = [f"{path}.{name}" if path else name for name, _ in module.named_parameters()]
        if names and set(names) <= chosen and not any(path.startswith(f"{other}.") for other in paths):
            paths.append(path)
    return paths


def _original_name(name: str) -> str:
    """Return a parameter's name before peft wrapped the model."""
    return name.removeprefix("base_model.model.").replace(".modules_to_save.default.", ".")
