"""Evaluation on several ranks that counts every example once."""

from __future__ import annotations

import inspect
import math
import warnings
from functools import partial
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.warnings import PossibleUserWarning
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DistributedSampler

# Whether DDP broadcasts buffers before each forward pass: torch 2.13 has renamed the attribute.
_ARGUMENTS = inspect.signature(DistributedDataParallel.__init__).parameters
_SYNC_BUFFERS = "forward_sync_buffers" if "forward_sync_buffers" in _ARGUMENTS else "broadcast_buffers"
# Lightning's advice to evaluate on one device, for what is mended here.
_ADVICE = "Using `DistributedSampler` with the dataloaders"


class WholeEvaluation(Callback):
    """Counts every example of an evaluation once, whatever the number of ranks; :class:`ClosureModule` adds it.

    A distributed sampler repeats some examples to give all ranks equally many, which is right in training. Here the
    samplers of validation and test loaders, Lightning's as well as the user's own, are cut back to the examples that
    there are. A rank may then have one batch less than rank 0, so that no batch may need the other ranks:

    - DDP broadcasts buffers before each forward pass. Here it does so once, at the start of a validation.
    - Where parameters are sharded, every forward pass gathers them. A rank that lacks a batch makes the pass of its
      last one again, and drops the outcome.

    With fewer examples than ranks, examples are repeated as before, and a warning says so.
    """

    def __init__(self) -> None:
        self._paused: DistributedDataParallel | None = None  # whose broadcasts wait for the end of the validation

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if trainer.world_size > 1:
            strategy = trainer.strategy
            # Lightning hands every loader to this hook after it has put in its sampler.
            warnings.filterwarnings("ignore", _ADVICE, PossibleUserWarning)
            process = type(strategy).process_dataloader.__get__(strategy)
            strategy.process_dataloader = partial(_cut_sampler, trainer, process)  # type: ignore[method-assign]

    # DDP

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        model = trainer.strategy.model
        if isinstance(model, DistributedDataParallel) and getattr(pl_module, "constant_buffers", False):
            setattr(model, _SYNC_BUFFERS, False)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        model = trainer.strategy.model
        if isinstance(model, DistributedDataParallel) and getattr(model, _SYNC_BUFFERS):
            for buffer in model.module.buffers():
                torch.distributed.broadcast(buffer, 0)
            setattr(model, _SYNC_BUFFERS, False)
            self._paused = model

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._paused is not None:
            setattr(self._paused, _SYNC_BUFFERS, True)
            self._paused = None

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.on_validation_end(trainer, pl_module)

    # Sharded parameters

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if _lacks_a_batch(trainer, pl_module, "val", batch_idx, dataloader_idx):
            for part in pl_module.prepare_batch(batch, f"val{dataloader_idx}"):
                pl_module.compute_loss(part)

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if _lacks_a_batch(trainer, pl_module, "test", batch_idx, dataloader_idx):
            for part in pl_module.prepare_batch(batch, f"test{dataloader_idx}"):
                pl_module.compute_loss(part)

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if _lacks_a_batch(trainer, pl_module, "predict", batch_idx, dataloader_idx):
            pl_module.predict_step(batch, batch_idx)


def _cut_sampler(trainer: Trainer, process: Any, loader: Any) -> Any:
    """Let the sampler of an evaluation's loader repeat nothing; return the loader as the strategy prepares it."""
    sampler = _sampler_of(loader)
    if not trainer.training and isinstance(sampler, DistributedSampler) and not sampler.drop_last:
        examples, ranks = len(sampler.dataset), sampler.num_replicas  # type: ignore[arg-type]
        if examples >= ranks:
            sampler.total_size = examples
            sampler.num_samples = len(range(sampler.rank, examples, ranks))
        else:
            rank_zero_warn(
                f"{examples} examples to evaluate on {ranks} ranks: some count more than once; take fewer devices"
            )
    return process(loader)


def _sampler_of(loader: Any) -> Any:
    """Return what chooses the examples of a loader; a batch sampler of its own has it inside."""
    batch_sampler = getattr(loader, "batch_sampler", None)
    return getattr(batch_sampler, "sampler", None) or getattr(loader, "sampler", None)


def _lacks_a_batch(trainer: Trainer, module: nn.Module, stage: str, batch_idx: int, place: int) -> bool:
    """Return whether rank 0 goes on after this batch, this rank does not, and rank 0 needs the other ranks for it.

    Args:
        trainer: The trainer.
        module: The module.
        stage: ``val``, ``test`` or ``predict``.
        batch_idx: Number of the batch.
        place: Number of its loader.
    """
    counts: list[Any] = getattr(trainer, f"num_{stage}_batches")
    if batch_idx + 1 < counts[place] or not any(isinstance(each, FSDPModule) for each in module.modules()):
        return False
    loaders, limit = getattr(trainer, f"{stage}_dataloaders"), getattr(trainer, f"limit_{stage}_batches")
    loader = loaders[place] if isinstance(loaders, list) else loaders
    sampler = _sampler_of(loader)
    if not isinstance(sampler, DistributedSampler):
        return False
    own = sampler.num_samples, sampler.rank
    try:
        # What the loader would count on rank 0.
        sampler.num_samples, sampler.rank = math.ceil(sampler.total_size / sampler.num_replicas), 0
        batches = len(loader)
    finally:
        sampler.num_samples, sampler.rank = own
    most = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
    return counts[place] < most
