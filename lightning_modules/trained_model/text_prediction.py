"""Predictions for plain texts, in batches of similar length."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from lightning_modules.errors import ModelError
from optimizers.call_order import evaluating

if TYPE_CHECKING:
    from lightning_modules.trained_model.trained_classifier import TrainedClassifier

Text = str | tuple[str, str]
# Tokens of a batch, as in an evaluation (datamodules/tokenized_datamodule.py, which may not be imported here).
TOKENS_ON_CPU, TOKENS_ELSEWHERE = 2048, 16_384
# Texts that are tokenized and sorted together; bounds the memory of a long list.
POOL = 50_000


def predict_outputs(
    classifier: TrainedClassifier,
    texts: Sequence[Text],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    tokens_per_batch: int | None = None,
) -> Tensor:
    """Return probabilities ``(texts, labels)`` or scores ``(texts,)``, in the texts' order, on the CPU in float32.

    Texts are sorted by length and cut into batches of about equally many tokens, padding included. The classifier runs
    in eval mode without gradients and gets its mode back.

    Args:
        classifier: The module.
        texts: Texts, or pairs of texts.
        tokenizer: The model's tokenizer.
        max_length: Longer texts are cut to so many tokens.
        tokens_per_batch: Rows times length of a batch, at most, unless one text is longer. Default: 2048 on a CPU,
            16384 elsewhere.
    """
    if not texts:
        return torch.empty(0, *([] if classifier.num_labels == 1 else [classifier.num_labels]))
    if tokens_per_batch is None:
        tokens_per_batch = TOKENS_ON_CPU if classifier.device.type == "cpu" else TOKENS_ELSEWHERE
    with evaluating(classifier), torch.inference_mode():
        pools = [
            _predict_pool(classifier, texts[start : start + POOL], tokenizer, max_length, tokens_per_batch)
            for start in range(0, len(texts), POOL)
        ]
    return torch.cat(pools)


def named_predictions(outputs: Tensor, names: Sequence[str], problem_type: str) -> list[dict[str, Any]]:
    """Return a dict per text from what :func:`predict_outputs` returns.

    Args:
        outputs: Probabilities or scores.
        names: Names of the labels.
        problem_type: The model's.

    Returns:
        ``{"score": …}`` for regression; else ``label``, ``score`` (its probability) and ``probabilities`` by name;
        with any number of labels per text, ``labels`` (those of probability above 0.5) and ``probabilities``.
    """
    if problem_type == "regression":
        return [{"score": score} for score in outputs.tolist()]
    found: list[dict[str, Any]] = []
    for row in outputs.tolist():
        probabilities = dict(zip(names, row, strict=True))
        if problem_type == "multi_label_classification":
            chosen = [name for name, probability in probabilities.items() if probability > 0.5]
            found.append({"labels": chosen, "probabilities": probabilities})
        else:
            label = max(probabilities, key=probabilities.__getitem__)
            found.append({"label": label, "score": probabilities[label], "probabilities": probabilities})
    return found


def checked_texts(texts: Iterable[Text]) -> list[Text]:
    """Return a list of texts, or of pairs of texts, after a look at each.

    Raises:
        ModelError: if something else is among them, or texts and pairs are mixed; it names the first place.
    """
    if isinstance(texts, str):
        raise ModelError("texts: one text is given; give a list of texts")
    if isinstance(texts, Mapping) or hasattr(texts, "columns"):
        raise ModelError(f"texts: a {type(texts).__name__} is given; give one of its columns")
    listed = list(texts)
    is_pair = bool(listed) and isinstance(listed[0], list | tuple)
    for place, text in enumerate(listed):
        parts = text if is_pair and isinstance(text, list | tuple) else (text,)
        if len(parts) != 1 + is_pair or not all(isinstance(part, str) for part in parts):
            kind = ("a pair of texts" + (", as the first is" if place else "")) if is_pair else "a text"
            raise ModelError(f"texts: number {place} is {text!r}, not {kind}")
    return listed


def _predict_pool(
    classifier: TrainedClassifier,
    texts: Sequence[Text],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    tokens_per_batch: int,
) -> Tensor:
    columns = [list(texts)] if isinstance(texts[0], str) else [list(column) for column in zip(*texts, strict=True)]
    encoded = tokenizer(*columns, truncation=True, max_length=max_length, return_attention_mask=False)
    lengths = [len(ids) for ids in encoded["input_ids"]]
    # The longest first, so that a lack of memory shows at once.
    order = sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)
    found = [
        classifier.predict_step(_padded(encoded, rows, tokenizer, classifier), 0)
        for rows in token_batches(order, lengths, tokens_per_batch)
    ]
    values = torch.cat([next(iter(output.values())).float().cpu() for output in found])
    return torch.empty_like(values).index_copy_(0, torch.tensor(order), values)


def token_batches(order: Sequence[int], lengths: Sequence[int], tokens_per_batch: int) -> Iterator[list[int]]:
    """Yield runs of ``order``, longest first, of at most ``tokens_per_batch`` tokens with their padding, or of one."""
    start = 0
    while start < len(order):
        count = max(1, tokens_per_batch // max(1, lengths[order[start]]))
        yield list(order[start : start + count])
        start += count


def _padded(
    encoded: Any, rows: list[int], tokenizer: PreTrainedTokenizerBase, classifier: TrainedClassifier
) -> dict[str, Tensor]:
    # Some tokenizers make no token of an empty text, which no model takes.
    lengths = torch.tensor([len(encoded["input_ids"][row]) for row in rows])
    width = max(1, int(lengths.max()))
    starts = (
        width - lengths if classifier.padding.side_for(tokenizer.padding_side) == "left" else torch.zeros_like(lengths)
    )
    places = torch.arange(width)
    used = (places >= starts[:, None]) & (places < (starts + lengths)[:, None])
    batch = {"attention_mask": used.long()}
    for name, fill in (("input_ids", tokenizer.pad_token_id or 0), ("token_type_ids", tokenizer.pad_token_type_id)):
        if name in encoded:
            batch[name] = torch.full(used.shape, fill)
            batch[name][used] = torch.tensor(list(chain.from_iterable(encoded[name][row] for row in rows)))
    return {name: tensor.to(classifier.device) for name, tensor in batch.items()}
