"""Collation of tokenized rows of different lengths into a padded batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from datamodules.errors import DataError


@dataclass(frozen=True)
class Collator:
    """Pads the rows of a batch to the longest of them.

    Args:
        pad_token_id: Token that pads ``input_ids``.
        pad_token_type_id: Type that pads ``token_type_ids``.
        padding_side: ``right`` or ``left``.
        pad_to_multiple_of: The padded length is rounded up to a multiple of this.
        regression: Whether labels are scores (float32) or classes (int64).
        num_labels: Number of labels where rows have lists of them, which become rows of 0 and 1 (float32). Default:
            rows have one label.
        windows: Whether a row is a list of windows. Each becomes a row of the batch, and ``text`` (windows,) has the
            place of its text within the batch; ``labels`` and ``idx`` are per text.
    """

    pad_token_id: int
    pad_token_type_id: int = 0
    padding_side: str = "right"
    pad_to_multiple_of: int = 1
    regression: bool = False
    num_labels: int | None = None
    windows: bool = False

    @classmethod
    def for_tokenizer(
        cls,
        tokenizer: PreTrainedTokenizerBase,
        pad_to_multiple_of: int,
        regression: bool,
        num_labels: int | None = None,
        windows: bool = False,
    ) -> Collator:
        """Return a collator that pads as the tokenizer would.

        For a tokenizer without a padding token (GPT-2's) the padding is its end-of-text token, as is usual for such
        models.

        Raises:
            DataError: The tokenizer has neither.
        """
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        if pad is None:
            raise DataError(f"the tokenizer {tokenizer.name_or_path} has neither a padding nor an end-of-text token")
        types = tokenizer.pad_token_type_id
        return cls(pad, types, tokenizer.padding_side, pad_to_multiple_of, regression, num_labels, windows)

    def __call__(self, rows: Sequence[Mapping]) -> dict[str, Tensor]:
        batch = self._tokens(_windows_of(rows) if self.windows else rows)
        if self.windows:
            counts = torch.tensor([len(row["input_ids"]) for row in rows])
            batch["text"] = torch.arange(len(rows)).repeat_interleave(counts)
        if "label" in rows[0]:
            batch["labels"] = self._labels([row["label"] for row in rows])
        batch["idx"] = torch.tensor([row["idx"] for row in rows], dtype=torch.int64)
        return batch

    def _labels(self, labels: Sequence) -> Tensor:
        if self.num_labels is None:
            return torch.tensor(labels, dtype=torch.float32 if self.regression else torch.int64)
        matrix = torch.zeros(len(labels), self.num_labels)
        for row, ids in zip(matrix, labels, strict=True):
            row[ids] = 1.0
        return matrix

    def _tokens(self, rows: Sequence[Mapping]) -> dict[str, Tensor]:
        lengths = torch.tensor([len(row["input_ids"]) for row in rows])
        width = -(-int(lengths.max()) // self.pad_to_multiple_of) * self.pad_to_multiple_of
        starts = width - lengths if self.padding_side == "left" else torch.zeros_like(lengths)
        places = torch.arange(width)
        used = (places >= starts[:, None]) & (places < (starts + lengths)[:, None])
        batch = {
            "input_ids": self._padded(rows, "input_ids", used, self.pad_token_id),
            "attention_mask": used.long(),
        }
        if "token_type_ids" in rows[0]:
            batch["token_type_ids"] = self._padded(rows, "token_type_ids", used, self.pad_token_type_id)
        return batch

    @staticmethod
    def _padded(rows: Sequence[Mapping], name: str, used: Tensor, value: int) -> Tensor:
        padded = torch.full(used.shape, value)
        # Converting only the rows' own numbers, in one call, is faster: most of a large batch is padding.
        padded[used] = torch.tensor(list(chain.from_iterable(row[name] for row in rows)), dtype=torch.int64)
        return padded


def _windows_of(rows: Sequence[Mapping]) -> list[dict]:
    names = [name for name in ("input_ids", "token_type_ids") if name in rows[0]]
    return [
        dict(zip(names, window, strict=True))
        for row in rows
        for window in zip(*(row[name] for name in names), strict=True)
    ]
