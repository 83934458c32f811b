"""Adapters: a frozen model with a few new parameters in it, by peft or as bottleneck adapters."""

import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from lightning_modules.errors import ModelError
from lightning_modules.ignored_warnings import quiet_peft
from lightning_modules.models.adapter_check import check_adapter_acts, check_prompts
from lightning_modules.models.adapter_identity import identity_values, original_name
from lightning_modules.models.bottleneck_adapter import (
    ADAPTER_TYPE,
    CONFIG_FILE,
    BottleneckConfig,
    add_bottleneck_adapters,
    load_bottleneck_weights,
    read_bottleneck_config,
    save_bottleneck_adapters,
)
from lightning_modules.models.lora_start import add_to_original, check_start, lora_start
from lightning_modules.models.trainable_parts import head_names, new_beside_old

if TYPE_CHECKING:
    from peft import PeftConfig
    from peft.utils import ModulesToSaveWrapper
else:
    try:
        from peft import PeftConfig
        from peft.utils import ModulesToSaveWrapper
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
        fresh: Names of the parameters of a fresh adapter; none for one that was trained before.
    """

    def __init__(
        self, model: nn.Module, new_parameter_names: Sequence[str], config: AdapterConfig, fresh: Sequence[str] = ()
    ) -> None:
        self.model = model
        self.new_parameter_names = tuple(new_parameter_names)
        self.config = config
        # Taken now: gradual unfreezing may freeze some of these parameters for a while.
        self._names = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        # What a LoRA has taken out of the base weights; a checkpoint brings its own.
        self.start = lora_start(model, config)
        self.identity = {} if self.start else identity_values(model, fresh)
        # What trains beside the adapter and came with the pretrained model: norms, biases, a head that is not new.
        self.trained_originals = sorted(self._names - {*fresh, *self.new_parameter_names})

    def save(self, folder: str | Path) -> None:
        """Write the adapter and the head: in peft's own format, or the same layout for bottleneck adapters.

        Args:
            folder: Where to write; made if it does not exist.
        """
        if isinstance(self.config, BottleneckConfig):
            save_bottleneck_adapters(self.model, self._names, self.config, folder)
        else:
            self.model.save_pretrained(str(folder))  # type: ignore[operator]
            if self.start:
                add_to_original(folder, self.start)

    def check_trains(self) -> None:
        """Refuse to train an adapter that cannot learn here.

        Raises:
            ModelError: for AdaLoRA, whose ranks ``update_and_allocate`` prunes after every step, and whose penalty peft
                adds to a loss that it computes itself; and for HRA with Gram-Schmidt, which divides by rounding errors.
        """
        if hasattr(getattr(self.model, "base_model", None), "update_and_allocate"):
            raise ModelError(
                "adapter: AdaLoraConfig prunes its ranks within the training loop, which nothing here does: it would "
                "train unpruned; choose peft.LoraConfig"
            )
        if getattr(self.config, "apply_GS", False):
            raise ModelError(
                "adapter: HRAConfig with apply_GS=True begins as another model than the pretrained one and turns NaN; "
                "leave apply_GS out"
            )

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
        for path, module in list(self.model.named_modules()):
            if isinstance(module, ModulesToSaveWrapper):
                # peft 0.21.2 unwraps these itself, but for most kinds of adapter only where the head is one layer.
                self.model.set_submodule(path, module.modules_to_save[module.active_adapter])
        return self.model.merge_and_unload()  # type: ignore[operator]


def kind_of_adapter(adapted: AdaptedModel | None) -> str:
    """Return the name of an adapter's kind, which checkpoints hold: that of its configuration's class, or none."""
    return "none" if adapted is None else type(adapted.config).__name__


def check_kind_of_adapter(checkpoint: Mapping[str, Any], adapted: AdaptedModel | None) -> None:
    """Refuse a checkpoint of another kind of adapter than the model's.

    Raises:
        ModelError: if it is of another kind.
    """
    own = kind_of_adapter(adapted)
    stored = checkpoint.get("adapter", own)
    if stored != own:
        raise ModelError(f"ckpt_path: the checkpoint's adapter is {stored}, the model's {own}; give adapter as it was")


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
            return AdaptedModel(model, [*new_parameter_names, *added], adapter, added)
        adapted = _add_peft_adapter(model, adapter, heads, set(new_parameter_names))
        if order:
            check_adapter_acts(adapted.model)
        return adapted
    except (ValueError, TypeError, OSError, RuntimeError, KeyError, NotImplementedError) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(f"adapter: {' '.join(str(error).split())}") from error


def _add_peft_adapter(model: nn.Module, config: Any, heads: list[str], new: set[str]) -> AdaptedModel:
    from peft import TaskType, get_peft_model

    if not isinstance(config, PeftConfig):
        raise ModelError(f"adapter: {type(config).__name__} is neither a configuration of peft nor a BottleneckConfig")
    check_start(config)
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
        with quiet_peft():
            wrapped = get_peft_model(model, config)
    except ValueError as error:
        raise ValueError(f"{error} The linear modules of this model are called {', '.join(linear)}.") from error
    for path, module in wrapped.named_modules():
        if type(module) is nn.Linear and module.weight.shape != (module.out_features, module.in_features):
            # peft 0.21.2 transposes what OLoRA takes out of GPT-2's weights; the first forward pass would fail.
            raise ValueError(
                f"this start does not go with the model: {path} gets a weight of {tuple(module.weight.shape)} in place "
                f"of {(module.out_features, module.in_features)}"
            )
    if config.is_prompt_learning:
        check_prompts(wrapped, str(getattr(config.peft_type, "value", config.peft_type)))
    names = [name for name, parameter in wrapped.named_parameters() if parameter.requires_grad]
    came_with_model = {name: original_name(name) for name in names}
    added = [name for name in names if came_with_model[name] not in original or came_with_model[name] in new]
    fresh = [name for name in names if came_with_model[name] not in original]
    return AdaptedModel(wrapped, added, config, fresh)


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
    # A saved prompt has lost the network that it was made by, so that it cannot go on training.
    is_trainable = not PeftConfig.from_pretrained(folder).is_prompt_learning
    with quiet_peft():
        wrapped = PeftModel.from_pretrained(model, folder, is_trainable=is_trainable)
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
