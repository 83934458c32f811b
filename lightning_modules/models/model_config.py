"""Changes of a Hugging Face configuration before its model is made: dropout, names of labels, the padding token."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from huggingface_hub.errors import StrictDataclassError
from lightning.pytorch.utilities import rank_zero_warn
from transformers import PretrainedConfig

from lightning_modules.errors import ModelError


def set_dropout(config: PretrainedConfig, probability: float) -> None:
    """Set every dropout probability of a configuration, whatever its architecture calls them.

    The probabilities of skipping a layer or a sub-layer as a whole (``encoder_layerdrop``, ``drop_path_rate``) stay.

    Raises:
        ModelError: if the probability is out of range.
    """
    if not 0 <= probability < 1:
        raise ModelError(f"dropout: {probability} is not allowed; from 0 to below 1")
    for name, value in config.to_dict().items():
        skips = "layerdrop" in name or "drop_path" in name
        if "drop" in name and not skips and isinstance(value, int | float) and not isinstance(value, bool):
            try:
                setattr(config, name, probability)
            except StrictDataclassError as error:  # transformers 5.23.0 has MPT's attn_pdrop for an integer
                reason = " ".join(str(error).split())
                rank_zero_warn(f"dropout: {type(config).__name__}.{name} stays {value}: {reason}")
    # A configuration may hold others: of encoder and decoder, of the text beside images.
    for nested in vars(config).values():
        if isinstance(nested, PretrainedConfig):
            set_dropout(nested, probability)


def set_label_names(config: PretrainedConfig, names: Sequence[str]) -> None:
    """Write the labels' names into a configuration, with which the model is saved.

    Raises:
        ModelError: if there are more or fewer of them than labels, or two labels have one name.
    """
    if len(names) != config.num_labels:
        raise ModelError(f"label_names: {len(names)} names for {config.num_labels} labels; give one name per label")
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ModelError(f"label_names: {twice[0]!r} is given twice; give each label a name of its own")
    config.id2label = dict(enumerate(names))
    config.label2id = {label: index for index, label in enumerate(names)}


def set_pad_token(config: PretrainedConfig) -> None:
    """Set the padding token of a decoder that has none to its end token: the last real token is found by it."""
    pad = getattr(config, "pad_token_id", None)
    if pad is None or pad < 0:  # -1 means none in older configurations
        end = getattr(config, "eos_token_id", None)
        config.pad_token_id = end[0] if isinstance(end, list) else end
