"""Batches of an evaluation hold every row once, in order of length, up to a number of tokens and of rows."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DistributedSampler, SequentialSampler

from datamodules.batches.length_batch_sampler import LengthBatchSampler

LENGTHS = st.lists(st.integers(1, 300), min_size=1, max_size=60)


@given(lengths=LENGTHS, batch_size=st.none() | st.integers(1, 9), tokens=st.integers(1, 900))
def test_every_row_once_and_no_batch_too_large(lengths: list[int], batch_size: int | None, tokens: int) -> None:
    sampler = LengthBatchSampler(SequentialSampler(lengths), lengths, batch_size, tokens)
    batches = list(sampler)
    rows = [row for batch in batches for row in batch]
    assert sorted(rows) == list(range(len(lengths)))
    found = [lengths[row] for row in rows]
    assert found == sorted(lengths, reverse=True)
    assert len(sampler) == len(batches)
    for batch in batches:
        assert batch_size is None or len(batch) <= batch_size
        assert len(batch) == 1 or len(batch) * max(lengths[row] for row in batch) <= tokens
    # No batch could have taken the first row of the next one.
    for batch, after in pairwise(batches):
        is_full = len(batch) == batch_size or (len(batch) + 1) * lengths[batch[0]] > tokens
        assert is_full, (batch, after)


@given(lengths=LENGTHS, ranks=st.integers(1, 4), tokens=st.integers(1, 900), repeats=st.booleans())
def test_ranks_share_the_rows(lengths: list[int], ranks: int, tokens: int, repeats: bool) -> None:
    of_ranks = []
    for rank in range(ranks):
        distributed = DistributedSampler(lengths, ranks, rank, shuffle=False)  # type: ignore[arg-type]
        if not repeats:  # as lightning_modules.trainer.whole_evaluation cuts it
            distributed.total_size = len(lengths)
        sampler = LengthBatchSampler(distributed, lengths, None, tokens)
        of_ranks.append(list(sampler))
        assert len(sampler) == len(of_ranks[-1])
    rows = [row for batches in of_ranks for batch in batches for row in batch]
    if repeats:  # torch's own sampler gives all ranks equally many rows
        assert {sum(map(len, batches)) for batches in of_ranks} == {-(-len(lengths) // ranks)}
        assert set(rows) == set(range(len(lengths)))
    else:
        assert sorted(rows) == list(range(len(lengths)))
    # Rank 0 waits for nobody's batch for longer than one: FSDP's ranks go through the model together.
    assert all(len(of_ranks[0]) - 1 <= len(batches) <= len(of_ranks[0]) for batches in of_ranks)
    for together in zip(*of_ranks, strict=False):
        assert max(map(len, together)) - min(map(len, together)) <= 1


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^batch_size, tokens: one of them has to be given$"):
        LengthBatchSampler([0], [1])
    with pytest.raises(ValueError, match=r"^drop_last: True is not allowed; every row is evaluated$"):
        LengthBatchSampler([0], [1], 1, drop_last=True)
