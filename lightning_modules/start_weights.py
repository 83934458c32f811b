"""The weights that a fine-tuning has started from, found again without having been kept."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lightning_modules.pretrained import load_sequence_classifier

if TYPE_CHECKING:
    from lightning_modules.sequence_classifier import SequenceClassifier

# The second layer of a bottleneck adapter: where it is zero, the adapter does nothing.
_BOTTLENECK_ENDS = (".adapter.up.weight", ".adapter.up.bias")


def start_weights(classifier: SequenceClassifier) -> dict[str, Tensor]:
    """Return a classifier's weights as they were before training, on the CPU, by their names in its ``state_dict``.

    Pretrained weights are read again from where they came from. New ones are left out: they were drawn at random
    (docs/last_line_search.md). With an adapter it is what makes
    the adapter do nothing, as :func:`identity_values` tells it.

    Args:
        classifier: The module; its random number generators are left where they are.

    Raises:
        ModelError: if the pretrained weights are no longer there.
    """
    if classifier.adapted is not None:
        parameters = dict(classifier.model.named_parameters())
        return {
            f"model.{name}": torch.full_like(parameters[name], value, device="cpu")
            for name, value in classifier.adapted.identity.items()
        }
    if not classifier.hparams["pretrained"]:
        return {}
    with torch.random.fork_rng(devices=[]):
        loaded = load_sequence_classifier(
            classifier.hparams["model"],
            classifier.num_labels,
            trust_remote_code=classifier.trust_remote_code,
            problem_type=classifier.problem_type,
        )
    found = loaded.model.state_dict()
    return {f"model.{name}": value for name, value in found.items() if name not in loaded.new_parameter_names}


def identity_values(model: nn.Module, names: Collection[str]) -> dict[str, float]:
    """Return for which values of which of its parameters a fresh adapter does nothing.

    These are the parameters that begin as one number: 0 for the second factor of a LoRA, 1 for the factors of IA3.
    Those drawn at random say what an adapter is about, not how much of it there is.

    Args:
        model: The model with the adapter, before any training.
        names: The adapter's own parameters.
    """
    values = {}
    for name in names:
        parameter = model.get_parameter(name).detach()
        if name.endswith(_BOTTLENECK_ENDS):
            values[name] = 0.0
        elif bool((parameter == parameter.flatten()[0]).all()):
            values[name] = float(parameter.flatten()[0])
    return values
