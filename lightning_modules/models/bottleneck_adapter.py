"""Bottleneck adapters: two small layers behind each sub-layer of a frozen transformer."""

import json
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers.activations import ACT2FN
from transformers.pytorch_utils import Conv1D

from optimizers import named_parts
from optimizers.param_groups import attention_projection

# As peft calls its files.
CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
ADAPTER_TYPE = "BOTTLENECK"


@dataclass
class BottleneckConfig:
    """Bottleneck adapters as Houlsby et al. (arXiv 1902.00751) and Pfeiffer et al. (arXiv 2005.00052) place them.

    Args:
        placement: ``houlsby``: behind the attention's and behind the feed-forward's projection back to the hidden size,
            in front of the residual connection. ``pfeiffer``: behind the feed-forward's alone.
        size: Width of the bottleneck. Houlsby et al. use 8 to 256.
        activation: Non-linearity by its name in transformers.
        init_std: Standard deviation of the initial weights; so small that an adapter starts near the identity.
        train_norms: Whether the layers' norms train as well, as in Houlsby et al.
    """

    placement: Literal["houlsby", "pfeiffer"] = "pfeiffer"
    size: int = 64
    activation: str = "gelu"
    init_std: float = 1e-2
    train_norms: bool = False

    def __post_init__(self) -> None:
        if self.placement not in ("houlsby", "pfeiffer"):
            raise ValueError(f"placement: {self.placement!r} is not allowed; houlsby or pfeiffer")
        if self.size < 1:
            raise ValueError(f"size: {self.size} is not allowed; 1 or more")
        if self.activation not in ACT2FN:
            raise ValueError(f"activation: {self.activation!r} is not allowed; one of {', '.join(sorted(ACT2FN))}")
        if not self.init_std >= 0:
            raise ValueError(f"init_std: {self.init_std} is not allowed; 0 or more")


class BottleneckAdapter(nn.Module):
    r"""Projects down, applies a non-linearity, projects up, adds the result: :math:`h + W_u \, σ(W_d h + b_d) + b_u`.

    Weights are drawn from a normal distribution cut off at two standard deviations, biases are zero.

    Args:
        hidden_size: Size of :math:`h`.
        config: Width, non-linearity and initial weights.
    """

    def __init__(self, hidden_size: int, config: BottleneckConfig) -> None:
        super().__init__()
        self.down = nn.Linear(hidden_size, config.size)
        self.activation = ACT2FN[config.activation]
        self.up = nn.Linear(config.size, hidden_size)
        for linear in (self.down, self.up):
            if config.init_std > 0:
                nn.init.trunc_normal_(linear.weight, std=config.init_std, a=-2 * config.init_std, b=2 * config.init_std)
            else:
                nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + self.up(self.activation(self.down(hidden)))


def add_bottleneck_adapters(model: nn.Module, config: BottleneckConfig, order: Sequence[str] = ()) -> list[str]:
    """Add adapters behind the sub-layers of every layer, and freeze the rest, except the norms if these are to train.

    The projections are found in the module tree: of a layer's linear modules that are not query, key or value, those
    that return to the hidden size; the last one in the attention's module and the last one outside it. An adapter
    becomes the submodule ``adapter`` of its projection, so that the names of all other parameters stay what they are.

    Args:
        model: A transformer with its head; changed in place.
        config: The adapters.
        order: The order in which the model's modules run, of :func:`~optimizers.call_order`.

    Returns:
        The names of the adapters' parameters.

    Raises:
        ValueError: if a layer has no such projections.

    Example::

        new = add_bottleneck_adapters(model, BottleneckConfig(placement="houlsby", size=16))
    """
    model.requires_grad_(True)
    layers = [[name for name, _ in part.parameters] for part in named_parts(model, order) if part.kind == "layer"]
    placed = [path for layer in layers for path in _sub_layer_outputs(model, layer, config.placement)]
    model.requires_grad_(False)
    if config.train_norms:
        for name in (name for layer in layers for name in layer):
            owner = model.get_submodule(name.rpartition(".")[0])
            if "norm" in type(owner).__name__.lower():
                owner.requires_grad_(True)
    names = []
    for path in placed:
        projection = model.get_submodule(path)
        adapter = BottleneckAdapter(_sizes(projection)[1], config).to(next(projection.parameters()))
        projection.add_module("adapter", adapter.train(projection.training))
        projection.register_forward_hook(_apply_adapter)
        names += [f"{path}.adapter.{name}" for name, _ in adapter.named_parameters()]
    return names


def save_bottleneck_adapters(
    model: nn.Module, names: Collection[str], config: BottleneckConfig, folder: str | Path
) -> None:
    """Write the configuration and some parameters in the file layout of peft.

    Args:
        model: A model with adapters.
        names: The parameters of the adapters, the head, and the norms if they train.
        config: What they were made from.
        folder: Where to write; made if it does not exist.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: p.detach().cpu().contiguous() for name, p in model.named_parameters() if name in names}
    save_file(weights, folder / WEIGHTS_FILE)
    text = json.dumps({"peft_type": ADAPTER_TYPE, **asdict(config)}, indent=2)
    (folder / CONFIG_FILE).write_text(text + "\n", encoding="utf-8")


def read_bottleneck_config(saved: dict[str, Any]) -> BottleneckConfig:
    """Return the configuration in a folder that :func:`save_bottleneck_adapters` wrote, from its parsed JSON."""
    return BottleneckConfig(**{key: value for key, value in saved.items() if key != "peft_type"})


def load_bottleneck_weights(model: nn.Module, folder: str | Path, new_in_head: Collection[str] = ()) -> None:
    """Load the files of :func:`save_bottleneck_adapters` into a model with the same adapters, which then train.

    Args:
        model: What :func:`add_bottleneck_adapters` has changed.
        folder: Where the adapters were written.
        new_in_head: Those of the head's parameters that have their values from the folder or from nowhere.

    Raises:
        ValueError: if the folder's tensors are not the model's, or lack any that trains or is new.
    """
    weights = load_file(Path(folder) / WEIGHTS_FILE)
    parameters = dict(model.named_parameters())
    for name, value in weights.items():
        found = tuple(parameters[name].shape) if name in parameters else "absent"
        if found != tuple(value.shape):
            raise ValueError(f"the adapter is of another model: {name} is {tuple(value.shape)} there and {found} here")
    needed = [name for name, parameter in parameters.items() if parameter.requires_grad or name in new_in_head]
    missing = [name for name in needed if name not in weights]
    if missing:
        raise ValueError(
            f"the adapter is incomplete: {len(missing)} of {len(needed)} parameters are not in {WEIGHTS_FILE}, the "
            f"first is {missing[0]}"
        )
    with torch.no_grad():
        for name, value in weights.items():
            parameters[name].copy_(value)
            parameters[name].requires_grad_(True)


def _apply_adapter(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    return module.adapter(output)  # type: ignore[operator]


def _sub_layer_outputs(model: nn.Module, layer: list[str], placement: str) -> list[str]:
    """Return the paths of the projections behind which a layer has adapters."""
    owners = {name.rpartition(".")[0]: attention_projection(name) for name in layer}
    linear = {path: kind for path, kind in owners.items() if isinstance(model.get_submodule(path), (nn.Linear, Conv1D))}
    attention = [path for path, kind in linear.items() if kind != "rest"]
    hidden_sizes = {_sizes(model.get_submodule(path))[0] for path in attention}
    outputs = [
        path for path, kind in linear.items() if kind == "rest" and _sizes(model.get_submodule(path))[1] in hidden_sizes
    ]
    # The attention's module: the smallest one that holds query, key and value, and a projection back.
    container = attention[0] if attention else ""
    while container and not (
        all(path.startswith(f"{container}.") for path in attention)
        and any(path.startswith(f"{container}.") for path in outputs)
    ):
        container = container.rpartition(".")[0]
    inside = [path for path in outputs if path.startswith(f"{container}.")]
    outside = [path for path in outputs if path not in inside]
    if not attention or not outside or (placement == "houlsby" and not inside):
        raise ValueError(
            f"cannot place {placement} adapters: no projections back to the hidden size found in the layer of "
            f"{layer[0]}; its linear modules are {', '.join(linear) or 'none'}"
        )
    return [inside[-1], outside[-1]] if placement == "houlsby" else [outside[-1]]


def _sizes(module: nn.Module) -> tuple[int, int]:
    """Return the input and output size of a linear module."""
    rows, columns = module.weight.shape  # type: ignore[misc]
    return (rows, columns) if isinstance(module, Conv1D) else (columns, rows)
