"""The values of its parameters with which an adapter does nothing, and their names in the model without it."""

from __future__ import annotations

from collections.abc import Collection

from torch import Tensor, nn

# The second layer of a bottleneck adapter: where it is zero, the adapter does nothing.
_BOTTLENECK_ENDS = (".adapter.up.weight", ".adapter.up.bias")
# Of DoRA in peft: the norms of the adapted layers' columns.
_MAGNITUDES = ".lora_magnitude_vector."


def identity_values(model: nn.Module, names: Collection[str]) -> dict[str, float | Tensor]:
    """Return for which values of which of its parameters a fresh adapter does nothing.

    These are the parameters that begin as one number, 0 for the second factor of a LoRA, 1 for the factors of IA3, and
    those that begin as what they are of the pretrained weights: the magnitudes of DoRA. Those drawn at random say what
    an adapter is about, not how much of it there is.

    Args:
        model: The model with the adapter, before any training.
        names: The adapter's own parameters.
    """
    values: dict[str, float | Tensor] = {}
    for name in names:
        parameter = model.get_parameter(name).detach()
        if name.endswith(_BOTTLENECK_ENDS):
            values[name] = 0.0
        elif bool((parameter == parameter.flatten()[0]).all()):
            values[name] = float(parameter.flatten()[0])
        elif _MAGNITUDES in name:
            values[name] = parameter.cpu().clone()
    return values


def original_name(name: str) -> str:
    """Return a parameter's name before peft wrapped the model."""
    name = name.removeprefix("base_model.model.").replace(".modules_to_save.default.", ".")
    return name.replace(".base_layer.", ".")
