"""The weights that a fine-tuning has started from, found again without having been kept."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lightning_modules.models.pretrained import load_sequence_classifier

if TYPE_CHECKING:
    from lightning_modules.sequence_classifier import SequenceClassifier

# The second layer of a bottleneck adapter: where it is zero, the adapter does nothing.
_BOTTLENECK_ENDS = (".adapter.up.weight", ".adapter.up.bias")
# Of DoRA in peft: the norms of the adapted layers' columns.
_MAGNITUDES = ".lora_magnitude_vector."


def start_weights(classifier: SequenceClassifier) -> dict[str, Tensor]:
    """Return a classifier's weights as they were before training, on the CPU, by their names in its ``state_dict``.

    Pretrained weights are read again from where they came from. New ones are left out: they were drawn at random
    (docs/last_line_search.md). With an adapter it is what makes the adapter do nothing, as :func:`identity_values`
    tells it, and the pretrained weights that train beside it.

    Args:
        classifier: The module; its random number generators are left where they are.

    Raises:
        ModelError: if the pretrained weights are no longer there.
    """
    adapted = classifier.adapted
    if adapted is None:
        return _pretrained(classifier) if classifier.hparams["pretrained"] else {}
    parameters = dict(classifier.model.named_parameters())
    found = {
        f"model.{name}": value.clone() if isinstance(value, Tensor) else torch.full_like(parameters[name], value).cpu()
        for name, value in adapted.identity.items()
    }
    if adapted.trained_originals and classifier.hparams["pretrained"]:
        pretrained = _pretrained(classifier)
        originals = {f"model.{name}": f"model.{original_name(name)}" for name in adapted.trained_originals}
        found |= {name: pretrained[original] for name, original in originals.items() if original in pretrained}
    return found


def _pretrained(classifier: SequenceClassifier) -> dict[str, Tensor]:
    with torch.random.fork_rng(devices=[]):
        loaded = load_sequence_classifier(
            classifier.hparams["model"],
            classifier.num_labels,
            trust_remote_code=classifier.trust_remote_code,
            problem_type=classifier.problem_type,
        )
    found = loaded.model.state_dict()
    return {f"model.{name}": value for name, value in found.items() if name not in loaded.new_parameter_names}


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
