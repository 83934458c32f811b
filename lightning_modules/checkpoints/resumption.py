"""Going on from a checkpoint as if the run had not been interrupted: random numbers, data order, waiting batches."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from lightning.fabric.utilities import move_data_to_device
from lightning.fabric.utilities.data import sized_len
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from torch import Tensor

from lightning_modules.checkpoints.loop_progress import (
    begin_next_epoch,
    complete_validation_counts,
    correct_progress,
    has_ended_epoch,
    is_validation_of_a_stop,
    is_within_epoch,
    repeats_validation,
)
from lightning_modules.checkpoints.random_states import (
    RandomStates,
    put_back,
    random_states,
    saved_states,
    set_random_states,
)
from optimizers.checks import require_private
from optimizers.other_generators import generators_within

ENTRY = "resumption"


class Resumption:
    """What a checkpoint needs beside Lightning's entries so that a run resumes bit for bit, and how it is put back.

    - The states of all random number generators, of every rank, and those at the start of the epoch. Within an epoch
      the data loader's iterator is made again from the latter, and the batches that were trained on are drawn from it
      and dropped: the rest of the epoch's order comes. A loader with ``state_dict`` and ``load_state_dict``
      (torchdata's StatefulDataLoader) is given its state instead, which loads no batch.
    - The states of the generators that the module and its parts have as attributes.
    - The batches that wait for an accumulated step, of every rank.
    - The logged metrics that callbacks and schedules read.

    Batches that are not made of tensors, numbers, texts, lists, tuples and dicts are not saved, because a checkpoint is
    read without running code. Means over an epoch of training that a user's module logs are of the rest of the epoch.
    """

    def __init__(self) -> None:
        self._loaded: dict[str, Any] = {}
        self._loader_states: list[dict[str, Any]] = []
        self._before_validation: RandomStates | None = None
        self._is_stopped = False  # by a validation that an uninterrupted run has not
        # At the start of the epoch: when its iterator was made and, where that was earlier, at its first batch.
        self._epoch_start: dict[str, RandomStates] = {}

    # An epoch's order

    def before_loaders(self, module: LightningModule) -> None:
        """Note the generators' states before Lightning makes the loaders' first iterator."""
        self._epoch_start = {"iterator": random_states(module.device)}

    def at_epoch_start(self, module: LightningModule) -> None:
        """Note the generators' states at the start of an epoch."""
        first = module.trainer.current_epoch == 0 and "iterator" in self._epoch_start
        generators = _generators(module.trainer)
        states = random_states(module.device, generators)
        if not first:
            self._epoch_start = {"iterator": states}
            return
        # A loader's own generator was made with it, and nothing was drawn from it before its first iterator.
        fresh = {
            f"generator{number}": torch.Generator(each.device).manual_seed(each.initial_seed()).get_state()
            for number, each in enumerate(generators)
        }
        self._epoch_start = {"iterator": self._epoch_start["iterator"] | fresh, "batches": states}

    def before_validation(self, module: LightningModule) -> None:
        """Note the generators' states before the loaders of a validation draw from them."""
        self._before_validation = random_states(module.device, _generators(module.trainer))
        self._is_stopped = not module.trainer.sanity_checking and is_validation_of_a_stop(module.trainer)

    # Saving

    def save(
        self, checkpoint: dict[str, Any], module: LightningModule, waiting: Sequence[Any], facts: Mapping[str, int]
    ) -> None:
        """Add the entries to a checkpoint.

        Args:
            checkpoint: The checkpoint that is being written.
            module: The module.
            waiting: The batches that wait for an accumulated step.
            facts: What :meth:`at_train_start` is to return beside the batches.
        """
        if "optimizer_states" not in checkpoint:
            return  # weights alone
        trainer = module.trainer
        correct_progress(checkpoint["loops"], trainer)
        now = random_states(module.device, _generators(trainer))
        repeats = trainer.validating and repeats_validation(checkpoint["loops"])
        if (repeats or self._is_stopped) and self._before_validation is not None:
            now = self._before_validation
        checkpoint[ENTRY] = {
            "ranks": trainer.world_size,
            "epoch_length": _epoch_length(trainer),
            "random_states": _of_all_ranks(now, module),
            "own_generators": _objects_of_all_ranks(saved_states(generators_within(module.modules())), trainer),
            "epoch_start": {name: _of_all_ranks(states, module) for name, states in self._epoch_start.items()},
            "sampler_seeds": [sampler.seed for sampler in _seeded_samplers(trainer)],
            "waiting": _objects_of_all_ranks(waiting, trainer),
            # Of a stream of unknown length Lightning fetches a batch ahead, to know the last one.
            "fetched": _objects_of_all_ranks(_fetched_ahead(trainer), trainer),
            "metrics": {name: value.detach().cpu() for name, value in trainer.callback_metrics.items()},
            "facts": dict(facts),
        }

    # Resuming

    def load(self, checkpoint: dict[str, Any]) -> None:
        """Take the entries of a checkpoint that a fit goes on from; those of earlier versions have none."""
        fit = checkpoint.get("loops", {}).get("fit_loop", {}).get("state_dict", {})
        self._loader_states = fit.get("combined_loader", [])
        self._loaded = checkpoint.get(ENTRY, {})

    @property
    def loaded_metrics(self) -> dict[str, Tensor]:
        """The logged metrics that a fit which is about to start finds, of the run that it goes on from."""
        return self._loaded.get("metrics", {})

    def at_train_start(self, module: LightningModule) -> tuple[list[Any], dict[str, int]]:
        """Put everything back, as the last before training starts.

        Args:
            module: The module.

        Returns:
            The waiting batches and the facts that were saved with them.
        """
        trainer, loaded, states = module.trainer, self._loaded, self._loader_states
        self._loaded, self._loader_states, self._is_stopped = {}, [], False
        if not trainer.fit_loop.is_resuming:
            return [], {}
        complete_validation_counts(trainer)
        within = is_within_epoch(trainer)
        if has_ended_epoch(trainer):
            begin_next_epoch(trainer)
        elif not within:
            fetcher = _data_fetcher(trainer)
            fetcher.done, fetcher.batches = True, []  # of a stream it has fetched one ahead
        if not loaded:
            return [], {}
        if loaded["ranks"] != trainer.world_size:
            rank_zero_info(
                f"the checkpoint is of {loaded['ranks']} ranks and this run has {trainer.world_size}: it goes on with "
                "another order of the data and other random numbers"
            )
        now = _epoch_length(trainer)
        before = loaded.get("epoch_length", now)  # earlier versions have none
        if within and loaded["ranks"] == trainer.world_size and before != now:
            rank_zero_warn(
                f"the checkpoint is from within an epoch of {before} batches, and this run has epochs of {now}: the "
                "batches that were trained on are left out by their number, so that some rows come twice in this epoch "
                "or not at all; with the former data and batch size none does"
            )
        trainer.callback_metrics.update(loaded["metrics"])
        for sampler, seed in zip(_seeded_samplers(trainer), loaded["sampler_seeds"], strict=False):
            sampler.seed = seed
        # Lightning's own judgement does not know that an iterator is made again.
        warnings.filterwarnings("ignore", message="You're resuming from a checkpoint that ended before the epoch")
        if within:
            self._epoch_start = {name: _of_rank(each, trainer) for name, each in loaded["epoch_start"].items()}
            self._go_to_batch(module, states, _share(loaded["fetched"], trainer))
        set_random_states(_of_rank(loaded["random_states"], trainer), module.device, _generators(trainer))
        own = _share(loaded.get("own_generators", 0), trainer)  # earlier versions have none
        put_back(own or [], generators_within(module.modules()))
        waiting = _share(loaded["waiting"], trainer)
        if waiting is None:
            number = loaded["waiting"]
            rank_zero_warn(f"{number} batches of an accumulated step are left out: the checkpoint could not hold them")
        return [move_data_to_device(each, module.device) for each in waiting or []], loaded["facts"]

    def _go_to_batch(self, module: LightningModule, states: list[dict[str, Any]], fetched: list[Any] | None) -> None:
        """Make the iterator of the epoch again and go to the batch that comes next.

        Args:
            module: The module.
            states: The states of the loaders that have one.
            fetched: The batches that had been fetched ahead; None where they are not known.
        """
        trainer = module.trainer
        progress: Any = trainer.fit_loop.epoch_progress, trainer.fit_loop.epoch_loop.batch_progress
        epochs, batches = (each.current.processed for each in progress)
        fetcher, loaders = _data_fetcher(trainer), _loaders(trainer)
        for loader in loaders:
            _set_epoch(loader, epochs)
        has_states = len(states) == len(loaders) > 0 and all(hasattr(each, "load_state_dict") for each in loaders)
        if has_states and fetched is not None:
            for loader, state in zip(loaders, states, strict=True):
                loader.load_state_dict(state)
            iter(fetcher)
            if fetched:
                fetcher.batches = [*fetched, *fetcher.batches]
            return
        generators = _generators(trainer)
        set_random_states(self._epoch_start["iterator"], module.device, generators)
        if "batches" in self._epoch_start:
            fetcher.combined_loader.reset()  # workers that stay draw a seed for the first iterator alone
        iter(fetcher)
        if "batches" in self._epoch_start:
            set_random_states(self._epoch_start["batches"], module.device, generators)
        for _ in range(batches):
            next(fetcher, None)
        if fetched and len(fetched) == len(fetcher.batches):
            fetcher.batches = list(fetched)  # those of a random data set were drawn amid the numbers of the model
        fetcher.fetched = 0  # Lightning adds the batches that were trained on


def _of_all_ranks(states: RandomStates, module: LightningModule) -> RandomStates:
    """Return the states of all ranks, stacked, on every rank."""
    if module.trainer.world_size == 1:
        return {name: state[None] for name, state in states.items()}
    # Bytes, which every backend gathers as they are.
    sent = {name: state.view(torch.uint8).to(module.device) for name, state in states.items()}
    gathered = {name: cast(Tensor, module.all_gather(each)).cpu() for name, each in sent.items()}
    return {name: each.view(states[name].dtype) for name, each in gathered.items()}


def _of_rank(states: RandomStates, trainer: Trainer) -> RandomStates:
    # Copies: torch 2.13 reads a generator's state from the start of a tensor's storage.
    return {name: each[trainer.global_rank % len(each)].clone() for name, each in states.items()}


def _share(of_ranks: list[list[Any]] | int, trainer: Trainer) -> list[Any] | None:
    """Return a rank's share of what :func:`_objects_of_all_ranks` returned; None where a checkpoint could not hold it.

    It is as many batches on every rank, so that all step together.
    """
    return None if isinstance(of_ranks, int) else of_ranks[trainer.global_rank % len(of_ranks)]


def _objects_of_all_ranks(objects: Sequence[Any], trainer: Trainer) -> list[list[Any]] | int:
    """Return each rank's objects (batches), or their number where a checkpoint cannot hold them."""
    own = [move_data_to_device(each, torch.device("cpu")) for each in objects]
    if not all(map(_is_plain, own)):
        return len(own)
    if trainer.world_size == 1 or not own:
        return [own] * trainer.world_size
    if not torch.distributed.is_initialized():
        return len(own)
    every: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(every, own)
    return every


def _is_plain(batch: Any) -> bool:
    """Whether ``torch.load(weights_only=True)`` reads it."""
    if type(batch) is dict:
        return all(isinstance(key, str | int) and _is_plain(value) for key, value in batch.items())
    if type(batch) in (list, tuple):
        return all(map(_is_plain, batch))
    return batch is None or type(batch) in (Tensor, str, int, float, bool)


def _loaders(trainer: Trainer) -> list[Any]:
    loaders = trainer.train_dataloader
    return [] if loaders is None else CombinedLoader(loaders).flattened


def _epoch_length(trainer: Trainer) -> int | None:
    """Return the batches of the longest training loader, whatever the Trainer's limit; None where that is unknown."""
    lengths = [sized_len(loader) for loader in _loaders(trainer)]
    return max((length for length in lengths if length is not None), default=None)


def _generators(trainer: Trainer) -> list[torch.Generator]:
    """The generators that belong to the training loaders and their samplers."""
    found: dict[int, torch.Generator] = {}
    for loader in _loaders(trainer):
        for owner in (loader, *_samplers(loader)):
            generator = getattr(owner, "generator", None)
            if isinstance(generator, torch.Generator):
                found[id(generator)] = generator
    return list(found.values())


def _seeded_samplers(trainer: Trainer) -> list[Any]:
    """The samplers whose order follows from a seed and the epoch, as that of torch's DistributedSampler."""
    found = {id(each): each for loader in _loaders(trainer) for each in _samplers(loader)}
    return [each for each in found.values() if isinstance(getattr(each, "seed", None), int)]


def _samplers(loader: Any) -> list[Any]:
    batch_sampler = getattr(loader, "batch_sampler", None)
    return [getattr(loader, "sampler", None), batch_sampler, getattr(batch_sampler, "sampler", None)]


def _set_epoch(loader: Any, epoch: int) -> None:
    """Tell the samplers of a loader the epoch before its iterator is made; Lightning tells them afterwards."""
    for sampler in _samplers(loader):
        if callable(getattr(sampler, "set_epoch", None)):
            sampler.set_epoch(epoch)


def _fetched_ahead(trainer: Trainer) -> list[Any]:
    # There is no iterator before a fit and after it.
    is_made = getattr(trainer.fit_loop, "_data_fetcher", True) is not None
    return getattr(_data_fetcher(trainer), "batches", []) if is_made else []


def _data_fetcher(trainer: Trainer) -> Any:
    """Lightning's iterator over the training batches, for which it has no public name."""
    used = ("__iter__", "__next__", "fetched", "done")
    require_private(trainer, Trainer, *(f"fit_loop._data_fetcher.{name}" for name in used))
    return trainer.fit_loop._data_fetcher
