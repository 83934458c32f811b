"""Base of the datamodules: a tokenizer, tokenized splits, and the loaders of their batches."""

from __future__ import annotations

import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.compute as pc
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, SequentialSampler
from transformers import PreTrainedTokenizerBase

from datamodules.batches.collator import Collator
from datamodules.batches.length_batch_sampler import LengthBatchSampler
from datamodules.batches.length_grouped_sampler import LengthGroupedSampler
from datamodules.errors import DataError
from datamodules.sources.arrow_columns import column_of
from datamodules.sources.row_cache import default_cache_dir
from datamodules.tokens.tokenization import tokenized
from datamodules.tokens.tokenizer import check_max_length, load_tokenizer, tokenizer_fingerprint

DEFAULT_TOKENIZER = "offline:all-MiniLM-L6-v2"
# Tokens of an evaluation batch where no number of rows is given. On a CPU the matrix products are at their full speed
# from 512 on and slower from 8192 on; no GPU was at hand to measure on, and as many are 64 rows of 256 tokens.
TOKENS_ON_CPU, TOKENS_ELSEWHERE = 2048, 16_384
# Rows of one where rows are taken in their order.
ROWS_IN_ORDER = 64


class TokenizedDataModule(LightningDataModule, ABC):
    """Loaders of batches of tokenized rows.

    A subclass says how a stage's splits are opened (``_open``) and how a batch is made of rows (``_collator``), and
    fills ``datasets`` in ``setup``: per ``<purpose>/<split>``, with the purposes train, validation, test and predict,
    rows with ``input_ids``, perhaps ``token_type_ids``, ``label`` where there are labels, and ``idx``.

    Args:
        tokenizer: Name of the tokenizer: on the hub, a folder, or ``offline:all-MiniLM-L6-v2``. Default: the model's.
        max_length: Maximum number of tokens per row.
        train_batch_size: Rows per training batch and process.
        eval_batch_size: Rows per validation, test and prediction batch and process. Default: as many as have 2048
            tokens on a CPU, 16384 elsewhere; 64 where rows are taken in their order.
        pad_to_multiple_of: Round the padded length up to a multiple of this. Default: no rounding.
        num_workers: Processes that load batches beside each training process.
        group_by_length: Put training rows of similar length into the same batch.
        cache_dir: Folder for tokenized rows. Default: ``linetune`` inside the folder where `datasets` keeps its own.

    Raises:
        DataError: An option is out of range.
    """

    def __init__(
        self,
        tokenizer: str | None,
        max_length: int,
        train_batch_size: int,
        eval_batch_size: int | None,
        pad_to_multiple_of: int | None,
        num_workers: int,
        group_by_length: bool,
        cache_dir: str | None,
    ) -> None:
        super().__init__()
        check_at_least(
            1,
            max_length=max_length,
            train_batch_size=train_batch_size,
            eval_batch_size=eval_batch_size,
            pad_to_multiple_of=pad_to_multiple_of,
        )
        check_at_least(0, num_workers=num_workers)
        if tokenizer is not None and not isinstance(tokenizer, str | os.PathLike):
            raise DataError(
                f"tokenizer: a {type(tokenizer).__name__} is given; its name on the hub is needed, or the folder that "
                "its save_pretrained wrote"
            )
        self.tokenizer_name = None if tokenizer is None else os.fspath(tokenizer)
        self.max_length = max_length
        self.train_batch_size = train_batch_size
        self.eval_batch_size = eval_batch_size
        self.pad_to_multiple_of = pad_to_multiple_of or 1
        self.num_workers = num_workers
        self.group_by_length = group_by_length
        self.cache_dir = cache_dir
        self.datasets: dict[str, datasets.Dataset] = {}
        self._tokenizer: PreTrainedTokenizerBase | None = None
        self._loaded_name: str | None = None
        self._fingerprint: str | None = None

    def _name_paths(self) -> None:
        """Replace paths in ``hparams`` by their names: a checkpoint holds no objects that reading it would create."""
        for option, value in self.hparams.items():
            if isinstance(value, list):
                self.hparams[option] = [os.fspath(each) if isinstance(each, os.PathLike) else each for each in value]
            elif isinstance(value, os.PathLike):
                self.hparams[option] = os.fspath(value)

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer, loaded at first access; without a name for it, again for each model that is another one."""
        name = self.tokenizer_name or self._model_name()
        if self._tokenizer is None or name != self._loaded_name:
            self._tokenizer, self._loaded_name = load_tokenizer(name), name
            self._fingerprint = None
        return self._tokenizer

    @property
    def tokenizer_fingerprint(self) -> str:
        """What rows of this tokenizer are cached under, computed once: of a large vocabulary it takes a while."""
        tokenizer = self.tokenizer
        if self._fingerprint is None:
            self._fingerprint = tokenizer_fingerprint(tokenizer)
        return self._fingerprint

    @property
    def cache_folder(self) -> Path:
        """The folder of tokenized rows."""
        return Path(self.cache_dir).expanduser() if self.cache_dir is not None else default_cache_dir()

    def tokenized(
        self,
        read: Callable[[], Iterable[pa.Table] | datasets.Dataset],
        text_columns: tuple[str, ...],
        key: dict[str, Any],
        description: str,
        **options: Any,
    ) -> datasets.Dataset:
        """Tokenize rows, or open the file of an earlier run; see :func:`~datamodules.tokens.tokenization.tokenized`.

        Raises:
            DataError: ``max_length`` is out of the tokenizer's range.
        """
        check_max_length(self.tokenizer, self.max_length, pair=len(text_columns) == 2)
        return tokenized(
            read,
            text_columns,
            self.tokenizer,
            self.max_length,
            self.cache_folder,
            key,
            description,
            fingerprint=self.tokenizer_fingerprint,
            **options,
        )

    @abstractmethod
    def _open(self, stage: str | None) -> dict[str, datasets.Dataset]:
        """Open the tokenized splits of a stage, or make them; return them by ``<purpose>/<split>``."""

    @abstractmethod
    def _collator(self, purpose: str) -> Collator:
        """Return what makes a batch of rows of a purpose."""

    def prepare_data(self) -> None:
        """Read and tokenize the splits of the stage; Lightning calls it in one process per node.

        Without a trainer it does nothing: ``setup`` then does all of this.
        """
        if self.trainer is not None:
            self._open(self.trainer.state.fn)

    def datasets_for(self, purpose: str) -> list[datasets.Dataset]:
        """Return the tokenized rows of a purpose, one per split."""
        return [rows for name, rows in self.datasets.items() if name.startswith(f"{purpose}/")]

    def train_dataloader(self) -> DataLoader:
        """Return the loader of shuffled training batches."""
        rows, collator = self.datasets_for("train")[0], self._collator("train")
        if not self.group_by_length:
            return self._loader(rows, collator, batch_size=self.train_batch_size, shuffle=True)
        sampler = LengthGroupedSampler(
            token_counts(rows),
            self.train_batch_size,
            num_replicas=self.trainer.world_size if self.trainer is not None else 1,
            rank=self.trainer.global_rank if self.trainer is not None else 0,
            # Set by seed_everything; Lightning seeds its own samplers from it, too.
            seed=int(os.environ.get("PL_GLOBAL_SEED", 0)),
        )
        return self._loader(rows, collator, batch_size=self.train_batch_size, sampler=sampler)

    def val_dataloader(self) -> DataLoader | list[DataLoader]:
        """Return the loader of validation batches, or the loaders of several validation sets.

        Batches are of rows of similar length, the longest first. Rows are taken in their order where something may
        depend on it:

        - where the trainer takes a part of the batches (``limit_val_batches``, ``overfit_batches``, ``fast_dev_run``),
          which is to be the rows at the start and not the longest ones;
        - where padding changes the logits of the module's model (``padding.matters``);
        - in predictions of a module that does not put them back into the rows' order (``restores_row_order``);
        - outside of a trainer's run: a batch sampler that no hook has made cannot be made anew by Lightning.
        """
        return self._eval_loaders("validation")

    def test_dataloader(self) -> DataLoader | list[DataLoader]:
        """Return the loader, or the loaders, of labelled test batches, see :meth:`val_dataloader`."""
        return self._eval_loaders("test")

    def predict_dataloader(self) -> DataLoader | list[DataLoader]:
        """Return the loader, or the loaders, of the batches to predict, see :meth:`val_dataloader`."""
        return self._eval_loaders("predict")

    def _eval_loaders(self, purpose: str) -> DataLoader | list[DataLoader]:
        loaders = [self._eval_loader(rows, purpose) for rows in self.datasets_for(purpose)]
        return loaders[0] if len(loaders) == 1 else loaders

    def _eval_loader(self, rows: datasets.Dataset, purpose: str) -> DataLoader:
        collator = self._collator(purpose)
        if self._keeps_row_order(purpose):
            return self._loader(rows, collator, batch_size=self.eval_batch_size or ROWS_IN_ORDER)
        multiple = self.pad_to_multiple_of
        most_tokens = TOKENS_ON_CPU if self._is_on("cpu") else TOKENS_ELSEWHERE
        by_length = LengthBatchSampler(
            SequentialSampler(rows),
            [-(-count // multiple) * multiple for count in token_counts(rows)],
            self.eval_batch_size,
            None if self.eval_batch_size else most_tokens,
        )
        return self._loader(rows, collator, batch_sampler=by_length)

    def _keeps_row_order(self, purpose: str) -> bool:
        trainer = self.trainer
        if trainer is None or trainer.state.stage is None:
            return True
        limits = {
            "validation": trainer.limit_val_batches,
            "test": trainer.limit_test_batches,
            "predict": trainer.limit_predict_batches,
        }
        limit, module = limits[purpose], trainer.lightning_module
        is_limited = isinstance(limit, int) or limit < 1.0  # an integer is a number of batches
        is_put_back = purpose != "predict" or getattr(module, "restores_row_order", False)
        return is_limited or not is_put_back or getattr(getattr(module, "padding", None), "matters", False)

    def _is_on(self, device: str) -> bool:
        return self.trainer is not None and self.trainer.strategy.root_device.type == device

    def _loader(self, rows: datasets.Dataset, collator: Collator, **batching: Any) -> DataLoader:
        if self.num_workers:
            # Workers are forked after the tokenizer has used threads, which it warns about unless this is set.
            os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        return DataLoader(
            rows,
            collate_fn=collator,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=self._is_on("cuda"),
            **batching,
        )

    def _model_name(self) -> str:
        module = self.trainer.lightning_module if self.trainer is not None else None
        if module is None:
            return DEFAULT_TOKENIZER
        name = module.hparams.get("model")
        if not isinstance(name, str) and self._loaded_name is not None:
            return self._loaded_name  # what a module of the user's own was made with
        if not isinstance(name, str):
            raise DataError(f"tokenizer is not set, and {type(module).__name__} has no model name in its hparams")
        return name


def check_at_least(least: int, **options: int | None) -> None:
    """Check that the options that are given are not below their least value, nor beyond what Python can count to.

    Raises:
        DataError: One is.
    """
    for name, value in options.items():
        if value is not None and value < least:
            raise DataError(f"{name} {value} is out of range: at least {least}")
        if value is not None and value > sys.maxsize:
            raise DataError(f"{name} {value} is out of range: at most {sys.maxsize}")


def token_counts(rows: datasets.Dataset) -> list[int]:
    """Return the number of tokens of each row."""
    if "length" in rows.column_names:
        return column_of(rows, "length").to_pylist()
    return pc.list_value_length(column_of(rows, "input_ids")).to_pylist()
