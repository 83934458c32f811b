"""The tokenizer of a model, for texts that do not come through a datamodule."""

from __future__ import annotations

import importlib.util

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from lightning_modules.errors import ModelError, first_line
from lightning_modules.models.packaged_models import OFFLINE_PREFIX, packaged_folder
from lightning_modules.models.pretrained import quiet_transformers


def load_model_tokenizer(name: str, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """Load the tokenizer that belongs to a model.

    Args:
        name: The model's name, as :class:`~lightning_modules.SequenceClassifier` takes it.
        trust_remote_code: Whether a hub repository may run code of its own.

    Raises:
        ModelError: if there is none.
    """
    location = packaged_folder(name) if name.startswith(OFFLINE_PREFIX) else name
    try:
        with quiet_transformers():
            tokenizer = AutoTokenizer.from_pretrained(location, trust_remote_code=trust_remote_code)
    except Exception as error:
        # The errors (no network, unknown name, damaged file) share no base class.
        reason = first_line(error)
        # Without sentencepiece, transformers 5 takes a file of SentencePiece for one of tiktoken, which cannot read it.
        if "tiktoken" in reason and importlib.util.find_spec("sentencepiece") is None:
            reason = 'a file of SentencePiece needs the extra "sentencepiece": pip install "linetune[sentencepiece]"'
        raise ModelError(f"tokenizer: cannot load that of {name!r} ({reason}); give tokenizer") from error
    # For a folder without tokenizer files transformers 5 makes a tokenizer of special tokens alone (of T5 with a space,
    # "▁"), to which every text is unknown.
    if not set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens) - {"▁"}:
        raise ModelError(f"tokenizer: {name!r} has no tokenizer files; give tokenizer")
    return tokenizer
