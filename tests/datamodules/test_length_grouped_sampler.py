from __future__ import annotations

import itertools
import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch import LightningModule
from torch.utils.data import BatchSampler

from datamodules import GLUEDataModule, LengthGroupedSampler
from tests.glue_files import write_glue_folder
from tests.quiet_trainer import quiet_trainer
from tests.ranks import on_ranks

lengths_of = st.lists(st.integers(1, 100), min_size=1, max_size=200)


def batches(sampler):
    return list(BatchSampler(sampler, sampler.batch_size, drop_last=False))


@given(lengths_of, st.integers(1, 9), st.integers(1, 4), st.integers(0, 3))
def test_together_the_processes_see_every_row_and_as_many_each(lengths, batch_size, processes, epoch):
    shares = []
    for rank in range(processes):
        sampler = LengthGroupedSampler(lengths, batch_size, processes, rank, seed=5)
        sampler.set_epoch(epoch)
        shares.append(list(sampler))
        assert len(shares[-1]) == len(sampler) == -(-len(lengths) // processes)
    seen = [row for share in shares for row in share]
    assert set(seen) == set(range(len(lengths)))
    # Rows come twice only to make the shares equal.
    assert len(seen) - len(lengths) < processes


def test_the_order_depends_on_seed_and_epoch_alone():
    lengths = [row % 37 for row in range(500)]

    def order(seed, epoch):
        sampler = LengthGroupedSampler(lengths, 8, seed=seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    torch.manual_seed(1)
    first = order(0, 0)
    torch.manual_seed(2)
    assert order(0, 0) == first
    assert order(0, 1) != first
    assert order(1, 0) != first


def test_batches_do_not_come_by_length():
    lengths = list(range(1600))
    longest = [max(lengths[row] for row in batch) for batch in batches(LengthGroupedSampler(lengths, 8))]
    ordered = sum(first > second for first, second in itertools.pairwise(longest))
    assert 0.35 < ordered / len(longest) < 0.65


def test_a_batch_is_of_one_length_where_it_can_be():
    # Three rows more than full batches hold.
    lengths = [1 + row % 4 for row in range(1603)]
    spread = [
        max(lengths[row] for row in batch) - min(lengths[row] for row in batch)
        for batch in batches(LengthGroupedSampler(lengths, 8))
    ]
    assert sum(width > 0 for width in spread) <= 0.1 * len(spread)


def test_processes_get_rows_of_the_same_lengths_at_the_same_time():
    generator = random.Random(0)
    lengths = [generator.randint(1, 100) for _ in range(3200)]
    first, second = (batches(LengthGroupedSampler(lengths, 8, 2, rank)) for rank in range(2))
    difference = [
        abs(max(lengths[row] for row in one) - max(lengths[row] for row in two))
        for one, two in zip(first, second, strict=True)
    ]
    assert sum(difference) / len(difference) < 2


def padding(loader):
    tokens = [(batch["attention_mask"].numel(), int(batch["attention_mask"].sum())) for batch in loader]
    return sum(padded for padded, _ in tokens) - sum(real for _, real in tokens)


def long_tailed_folder(root):
    """SST-2 files whose sentences are mostly short and sometimes long, as the real ones are."""
    generator = random.Random(0)
    rows = [" ".join(["word"] * min(60, int(generator.expovariate(1 / 12)) + 1)) for _ in range(2000)]
    folder = write_glue_folder(root)
    text = "".join(f"{sentence}\t{number % 2}\n" for number, sentence in enumerate(rows))
    (folder / "SST-2" / "train.tsv").write_text("sentence\tlabel\n" + text)
    return str(folder)


def test_grouping_saves_most_of_the_padding(tmp_path):
    folder = long_tailed_folder(tmp_path / "glue")

    def loader(group_by_length):
        data = GLUEDataModule(
            "sst2",
            data_dir=folder,
            tokenizer="offline:all-MiniLM-L6-v2",
            group_by_length=group_by_length,
            cache_dir=str(tmp_path / "cache"),
        )
        data.setup("fit")
        return data.train_dataloader()

    assert padding(loader(True)) < 0.15 * padding(loader(False))
    assert sorted(torch.cat([batch["idx"] for batch in loader(True)]).tolist()) == list(range(2000))


class Recorder(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.epochs: list[list[list[int]]] = []

    def on_train_epoch_start(self):
        self.epochs.append([])

    def training_step(self, batch, batch_idx):
        self.epochs[-1].append(batch["idx"].tolist())
        return self.weight * 1.0

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(root, cache_dir, **options):
    data = GLUEDataModule(
        "sst2",
        source="synthetic",
        tokenizer="offline:all-MiniLM-L6-v2",
        max_train_samples=100,
        max_eval_samples=8,
        train_batch_size=8,
        group_by_length=True,
        cache_dir=cache_dir,
    )
    module = Recorder()
    quiet_trainer(default_root_dir=root, max_epochs=2, limit_val_batches=0, **options).fit(module, data)
    return module.epochs


def test_lightning_gives_each_epoch_its_own_order(tmp_path):
    first, second = fit(tmp_path, str(tmp_path / "cache"))
    rows = [sorted(row for batch in epoch for row in batch) for epoch in (first, second)]
    assert rows[0] == rows[1]
    assert len(set(rows[0])) == 100
    assert first != second
    assert fit(tmp_path, str(tmp_path / "cache")) == [first, second]


def _fit_in_a_process(rank, root):
    return fit(root, f"{root}/cache", devices=2, strategy="ddp")


@pytest.mark.distributed
@pytest.mark.slow
def test_two_processes_share_each_batch(tmp_path):
    shares = on_ranks(_fit_in_a_process, str(tmp_path))
    for epoch in range(2):
        mine, other = ([row for batch in shares[rank][epoch] for row in batch] for rank in range(2))
        assert len(mine) == len(other) == 50
        assert set(mine).isdisjoint(other)
        assert [len(batch) for batch in shares[0][epoch]] == [8] * 6 + [2]
    # Rows were tokenized once, not by each process.
    assert len([file for file in (tmp_path / "cache").iterdir() if file.suffix == ".arrow"]) == 2
