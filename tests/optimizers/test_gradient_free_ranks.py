"""Ranks that share nothing but losses make the same steps."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist

from optimizers import GLD, LineSearchMeZO, MeZO
from tests.optimizers.task import Task
from tests.ranks import on_ranks

OPTIMIZERS = {
    "gld": lambda groups: GLD(groups, radius=0.2, num_radii=3, success_rate=0.3),
    "subsets and lookahead": lambda groups: GLD(
        groups, radius=0.2, num_radii=2, selection="random", subset_size=4, lookahead_width=2
    ),
    "mezo": lambda groups: MeZO(groups, lr=0.02, copy_limit=0),
    "line search": lambda groups: LineSearchMeZO(groups),
}


def train(rank):
    dist.init_process_group("gloo")
    results = {}
    for name, make in OPTIMIZERS.items():
        task, own = Task(), Task(seed=rank)
        task.inputs, task.labels = own.inputs, own.labels

        def evaluate(task=task):
            loss = task.loss()
            dist.all_reduce(loss)
            return loss / dist.get_world_size()

        # The global generators of the ranks differ, as they do after different data.
        torch.manual_seed(rank)
        optimizer = make(task.groups())
        losses = [optimizer.step(evaluate=evaluate).item() for _ in range(8)]
        results[name] = (losses, task.bits())
    return results


@pytest.mark.distributed
def test_two_ranks_stay_bit_identical():
    one, other = on_ranks(train)
    start = Task().bits()
    for name in OPTIMIZERS:
        assert one[name][0] == other[name][0], name
        assert all(torch.equal(a, b) for a, b in zip(one[name][1], other[name][1], strict=True)), name
        assert not any(torch.equal(a, b) for a, b in zip(one[name][1], start, strict=True)), name
