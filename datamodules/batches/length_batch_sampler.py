"""Batches of an evaluation: rows of similar length, about equally many tokens in each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from torch.utils.data import BatchSampler, DistributedSampler, Sampler


class LengthBatchSampler(BatchSampler):
    """Batches of all rows in order of length, the longest first, so that a lack of memory shows at once.

    In a distributed run a batch over all processes is formed first and each process takes every ``num_replicas``-th of
    its rows: processes get rows of the same lengths, and as many batches as the first, or one less.

    The arguments ``sampler`` and ``drop_last`` have the names and the places in which Lightning looks for them to put
    in a distributed sampler.

    Args:
        sampler: Number and rank of the processes, where it is a DistributedSampler; its order is not used.
        lengths: Number of tokens of each row, with those that pad it.
        batch_size: Maximum number of rows per batch and process. Default: no maximum.
        tokens: Maximum number of tokens per batch and process, padding included; a longer row is a batch of its own.
            Default: no maximum.
        drop_last: Only False: an evaluation leaves out no row.

    Raises:
        ValueError: Neither maximum is given, or ``drop_last`` is True.

    Example::

        DataLoader(rows, batch_sampler=LengthBatchSampler(SequentialSampler(rows), lengths, tokens=2048))
    """

    def __init__(
        self,
        sampler: Sampler[int] | Iterable[int],
        lengths: Sequence[int],
        batch_size: int | None = None,
        tokens: int | None = None,
        drop_last: bool = False,
    ) -> None:
        if batch_size is None and tokens is None:
            raise ValueError("batch_size, tokens: one of them has to be given")
        if drop_last:
            raise ValueError("drop_last: True is not allowed; every row is evaluated")
        # The base class would check a batch size that there need not be.
        self.sampler = sampler
        self.lengths = lengths
        self.batch_size = batch_size  # type: ignore[assignment]
        self.tokens = tokens
        self.drop_last = drop_last
        # For whoever puts predictions back into the rows' order; Lightning's wrapper shows an instance's own alone.
        self.is_sorted_by_length = True
        self._order = sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)

    def __iter__(self) -> Iterator[list[int]]:
        rank = self.sampler.rank if isinstance(self.sampler, DistributedSampler) else 0
        for rows in self._batches_of_all_processes():
            if own := rows[rank :: self._processes]:
                yield own

    def __len__(self) -> int:
        return sum(1 for _ in self)

    @property
    def _processes(self) -> int:
        return self.sampler.num_replicas if isinstance(self.sampler, DistributedSampler) else 1

    def _batches_of_all_processes(self) -> Iterator[list[int]]:
        order = self._order
        if isinstance(self.sampler, DistributedSampler):
            # One that gives all processes equally many rows repeats some.
            order = (order * (1 + self._processes))[: self.sampler.total_size]
        start = 0
        while start < len(order):
            longest = max(1, self.lengths[order[start]])
            limits = [self.batch_size, None if self.tokens is None else self.tokens // longest]
            rows = max(1, min(limit for limit in limits if limit is not None)) * self._processes
            yield order[start : start + rows]
            start += rows
