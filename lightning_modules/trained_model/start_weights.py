"""The weights that a fine-tuning has started from, read again from their source."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lightning_modules.models.adapter_identity import original_name
from lightning_modules.models.pretrained import load_sequence_classifier

if TYPE_CHECKING:
    from lightning_modules.trained_model.trained_classifier import TrainedClassifier


def start_weights(classifier: TrainedClassifier) -> dict[str, Tensor]:
    """Return a classifier's weights as they were before training, on the CPU, by their names in its ``state_dict``.

    Pretrained weights are read again from where they came from. New ones are left out: they were drawn at random
    (docs/last_line_search.md). With an adapter it is what makes the adapter do nothing (see `adapter_identity.py`), and
    the pretrained weights that train beside it.

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


def _pretrained(classifier: TrainedClassifier) -> dict[str, Tensor]:
    with torch.random.fork_rng(devices=[]):
        loaded = load_sequence_classifier(
            classifier.hparams["model"],
            classifier.num_labels,
            trust_remote_code=classifier.trust_remote_code,
            problem_type=classifier.problem_type,
        )
    found = loaded.model.state_dict()
    return {f"model.{name}": value for name, value in found.items() if name not in loaded.new_parameter_names}
