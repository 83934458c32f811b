"""Refusing batches that a classifier cannot read, by their rows, while they are still on the CPU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lightning_modules.errors import ModelError
from lightning_modules.losses import ProblemType


def check_batch(batch: Any, vocabulary: int | None, num_labels: int, problem_type: ProblemType | None) -> None:
    """Check that a batch has rows, tokens that the model has embeddings for, and labels that its head has outputs for.

    What is on another device is not looked at: that would wait for the device, where a wrong number ends the program
    without a word on the row.

    Args:
        batch: A batch of the data loader.
        vocabulary: How many tokens the model has embeddings for; None if unknown.
        num_labels: Outputs of the head.
        problem_type: The kind of task; None where labels are not read.

    Raises:
        ModelError: one line: the row, what is wrong with it and what is allowed.
    """
    if not isinstance(batch, Mapping):
        return
    tokens, labels = _on_cpu(batch.get("input_ids")), _on_cpu(batch.get("labels"))
    if tokens is not None:
        _check_tokens(batch, tokens, vocabulary)
    if labels is not None and problem_type == "single_label_classification":
        if labels.dtype != torch.int64 or labels.ndim != 1:
            raise ModelError(
                f"labels: a {labels.dtype} tensor of shape {tuple(labels.shape)}; one class number per row is needed, "
                "of type int64, or problem_type multi_label_classification"
            )
        allowed = f"0 to {num_labels - 1} (num_labels {num_labels})"
        _refuse_any((labels < 0) | (labels >= num_labels), batch, labels, allowed)
    elif labels is not None and problem_type == "multi_label_classification":
        if labels.ndim != 2 or labels.shape[1] != num_labels:
            raise ModelError(
                f"labels: a tensor of shape {tuple(labels.shape)}; a column per label is needed, {num_labels} of them"
            )
        _refuse_any((labels != 0) & (labels != 1), batch, labels, "0 and 1, a column per label")
    elif labels is not None and problem_type == "regression" and labels.ndim != 1:
        # Beside a column torch would compare every score with every target.
        raise ModelError(f"labels: a tensor of shape {tuple(labels.shape)}; one score per row is needed, no column")


def check_is_dict(batch: Any) -> None:
    """Check that a batch is what a Hugging Face model takes.

    Raises:
        ModelError: if it is a tuple, a list or something else.
    """
    if not isinstance(batch, Mapping):
        raise ModelError(
            f"the batches are of type {type(batch).__name__}; a sequence classifier takes dicts with input_ids, "
            "attention_mask and labels"
        )


def labels_of(batch: Mapping[str, Any]) -> Tensor:
    """Return the labels of a batch.

    Raises:
        ModelError: if it has none; it names what the batch has.
    """
    if "labels" not in batch:
        hint = "name them labels, not label" if "label" in batch else "use predict for unlabelled data"
        given = ", ".join(str(name) for name in batch if name != "features")
        raise ModelError(f"labels: the batches have none, only {given}; {hint}")
    return batch["labels"]


def _check_tokens(batch: Mapping[str, Any], tokens: Tensor, vocabulary: int | None) -> None:
    if tokens.shape[0] == 0:
        raise ModelError(f"a batch of no rows: input_ids has the shape {tuple(tokens.shape)}")
    if vocabulary is None or tokens.is_floating_point():
        return
    mask = batch.get("attention_mask")
    read = tokens if mask is None or mask.shape != tokens.shape else torch.where(mask != 0, tokens, 0)
    unknown = (read < 0) | (read >= vocabulary)
    if unknown.any():
        place = unknown.nonzero()[0]
        raise ModelError(
            f"input_ids: {_row(batch, int(place[0]))} has token {int(tokens[tuple(place)])}, and the model has "
            f"embeddings for tokens 0 to {vocabulary - 1}; tokenize with the model's own tokenizer"
        )


def _refuse_any(wrong: Tensor, batch: Mapping[str, Any], labels: Tensor, allowed: str) -> None:
    if wrong.any():
        place = wrong.nonzero()[0]
        raise ModelError(
            f"labels: {_row(batch, int(place[0]))} has label {labels[tuple(place)].item():g}; allowed: {allowed}"
        )


def embedded_tokens(model: Any) -> int | None:
    """Return how many tokens a model has embeddings for; None where it does not look tokens up in a table."""
    try:
        table = model.get_input_embeddings()
    except NotImplementedError:
        return None
    return table.num_embeddings if isinstance(table, nn.Embedding) else None


def _on_cpu(value: Any) -> Tensor | None:
    return value if isinstance(value, Tensor) and value.device.type == "cpu" and value.ndim > 0 else None


def _row(batch: Mapping[str, Any], place: int) -> str:
    index = batch.get("idx")
    # With windows of long texts, `text` says which text a row belongs to.
    if isinstance(index, Tensor) and index.ndim == 1 and place < len(index) and "text" not in batch:
        return f"the row with idx {int(index[place])}"
    return f"row {place} of the batch"
