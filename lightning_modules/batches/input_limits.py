"""How long a text, how many tokens and which token types a model takes; and whether a datamodule keeps to it."""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn
from transformers import PreTrainedTokenizerBase

from lightning_modules.batches.batch_check import embedded_tokens
from lightning_modules.errors import ModelError, first_line
from lightning_modules.models.tiny_input import tiny_input
from optimizers.call_order import evaluating


def longest_input(model: nn.Module) -> int:
    """Return how many tokens a model is made for, as far as its configuration tells; 512 where it does not."""
    config: Any = model.config
    names = ("max_position_embeddings", "n_positions", "max_seq_len")
    positions = next((value for name in names if (value := getattr(config, name, None))), None)
    if not positions or positions < 0:
        return 512
    table = next((module for name, module in model.named_modules() if name.endswith("position_embeddings")), None)
    # RoBERTa and its like begin to count behind the padding token.
    offset = getattr(table, "padding_idx", None)
    return positions if offset is None else positions - offset - 1


def takes_token_types(model: Any) -> bool:
    """Return whether a model has more than one type of token, by which it tells the second text of a pair."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    taken = inspect.signature(inner.forward).parameters
    if "token_type_ids" not in taken and not any(p.kind is p.VAR_KEYWORD for p in taken.values()):
        return False
    config = model.config.get_text_config()
    # TAPAS has several kinds of types, for the cells of a table.
    return getattr(config, "type_vocab_size", None) not in (0, 1) and not hasattr(config, "type_vocab_sizes")


def check_data(model: nn.Module, data: Any) -> None:
    """Refuse a datamodule whose tokenizer has tokens, or whose texts are of a length, that a model does not have.

    Args:
        model: A Hugging Face model.
        data: A datamodule; compared is what it has of ``tokenizer``, ``max_length`` and ``pad_to_multiple_of``.

    Raises:
        ModelError: one line: what is too much, and what is allowed.
    """
    if isinstance(tokenizer := getattr(data, "tokenizer", None), PreTrainedTokenizerBase):
        check_vocabulary(model, tokenizer)
    length, multiple = getattr(data, "max_length", None), getattr(data, "pad_to_multiple_of", 1)
    if isinstance(length, int) and isinstance(multiple, int):
        check_length(model, -(-length // multiple) * multiple)


def check_length(model: Any, length: int) -> None:
    """Refuse texts that are longer than a model's table of positions; rotary and relative positions have no end.

    Raises:
        ModelError: if the model is made for fewer tokens and does not run on so many.
    """
    if length <= (longest := longest_input(model)):
        return
    try:
        with evaluating(model):
            model(**tiny_input(model.config, length, next(model.parameters()).device))
    except (IndexError, RuntimeError, ValueError) as error:
        raise ModelError(
            f"max_length: {length} tokens are more than this {type(model).__name__} takes; at most {longest} "
            f"({first_line(error)})"
        ) from error


def check_vocabulary(model: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a tokenizer with more tokens than a model has embeddings for.

    Raises:
        ModelError: if it has.
    """
    rows = embedded_tokens(model)
    # Without the tokens that were added to it: models often have no rows for those of them that are never used.
    if rows is not None and tokenizer.vocab_size > rows:
        raise ModelError(
            f"tokenizer: {tokenizer.name_or_path!r} has {tokenizer.vocab_size} tokens and this {type(model).__name__} "
            f"has embeddings for {rows}; give the tokenizer that belongs to the model"
        )
