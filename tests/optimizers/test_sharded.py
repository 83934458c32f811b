"""Optimizers on parameters that `fully_shard` has divided among ranks, unevenly: the steps of one process."""

from __future__ import annotations

import inspect
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from optimizers import GLD, LineSearchMeZO, ParabolicAdam, SaLSA
from optimizers.shards import complete_state, is_sharded, local_part
from tests.optimizers.all_optimizers import OPTIMIZERS
from tests.ranks import on_ranks

pytestmark = pytest.mark.distributed

EVERY_KIND = {
    **OPTIMIZERS,
    "gld, largest entries": lambda params: GLD(params, radius=0.05, selection="largest", subset_size=3),
    "gld, fisher": lambda params: GLD(params, radius=0.05, selection="fisher", subset_size=3),
    "gld, norms": lambda params: GLD(params, radius=0.05, norm_weight=0.05),
    "gld, without copies": lambda params: GLD(params, radius=0.05, copy_limit=0),
    "line search mezo, without copies": lambda params: LineSearchMeZO(params, copy_limit=0),
    "salsa, anchors": lambda params: SaLSA([{**group, "anchor_decay": 0.1} for group in params]),
}
RESUMED = {
    name: EVERY_KIND[name]
    for name in (
        "adam, heavy ball",
        "salsa",
        "parabolic adam",
        "adamw l2-sp",
        "gld, random entries",
        "gld, adaptive",
        "gld, lookahead",
        "mezo",
    )
} | {"adamw": partial(torch.optim.AdamW, lr=1e-2)}


def steps_of(name: str) -> int:
    return 2 if name.startswith("gld") else 5


class Problem:
    """A small regression. Its layers of 5, 3 and 1 rows are sharded unevenly on two ranks; one rank has no bias of 1.

    Args:
        sharded: Whether its layers are sharded, and its rows dealt to the ranks.
    """

    def __init__(self, sharded: bool) -> None:
        generator = torch.Generator().manual_seed(1)
        self.model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 3), nn.Tanh(), nn.Linear(3, 1))
        for parameter in self.model.parameters():
            parameter.data.normal_(generator=generator)
        self.inputs = torch.randn(16, 3, generator=generator)
        self.targets = self.inputs[:, :1].sin()
        self.ranks = dist.get_world_size() if sharded else 1
        if sharded:
            self.inputs, self.targets = (rows[dist.get_rank() :: self.ranks] for rows in (self.inputs, self.targets))
            for layer in self.model[::2]:
                fully_shard(layer, mesh=init_device_mesh("cpu", (self.ranks,)), reshard_after_forward=True)

    def groups(self) -> list[dict[str, Any]]:
        return [{"params": list(layer.parameters()), "name": str(i)} for i, layer in enumerate(self.model[::2])]

    def loss(self) -> Tensor:
        return (self.model(self.inputs) - self.targets).square().mean()

    def mean(self, loss: Tensor) -> Tensor:
        loss = loss.detach().clone()
        if self.ranks > 1:
            dist.all_reduce(loss)
        return loss / self.ranks

    def evaluate(self) -> Tensor:
        with torch.no_grad():
            loss = self.mean(self.loss())
        for module in self.model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()
        return loss

    def train(self, optimizer: torch.optim.Optimizer, steps: int) -> list[float]:
        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = self.loss()
            loss.backward()
            return self.mean(loss)

        takes_evaluate = "evaluate" in inspect.signature(type(optimizer).step).parameters
        options = {"evaluate": self.evaluate} if takes_evaluate else {}
        return [float(optimizer.step(closure, **options)) for _ in range(steps)]

    def weights(self) -> list[Tensor]:
        found = [parameter.detach() for parameter in self.model.parameters()]
        return [each.full_tensor() if is_sharded(each) else each.clone() for each in found]


def train_all(rank: int) -> dict[str, Any]:
    dist.init_process_group("gloo")
    results = {}
    for name, make in EVERY_KIND.items():
        problem = Problem(sharded=True)
        optimizer = make(problem.groups())
        losses = problem.train(optimizer, steps_of(name))
        results[name] = losses, [group["lr"] for group in optimizer.param_groups], problem.weights()
    return results


def test_sharded_steps_are_those_of_whole_parameters() -> None:
    first, second = on_ranks(train_all)
    for name, make in EVERY_KIND.items():
        assert first[name][:2] == second[name][:2], name
        problem = Problem(sharded=False)
        optimizer = make(problem.groups())
        losses, (of_sharded, step_sizes, weights) = problem.train(optimizer, steps_of(name)), first[name]
        assert of_sharded == pytest.approx(losses, rel=1e-3), name
        assert step_sizes == pytest.approx([group["lr"] for group in optimizer.param_groups], rel=1e-3), name
        for found, expected in zip(weights, problem.weights(), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3, msg=name)


def resume_all(rank: int, folder: str) -> None:
    dist.init_process_group("gloo")
    for name, make in RESUMED.items():
        problem = Problem(sharded=True)
        optimizer = make(problem.groups())
        problem.train(optimizer, 3)
        dcp.save({"optimizer": get_optimizer_state_dict(problem.model, optimizer)}, checkpoint_id=f"{folder}/{name}")
        parts = [local_part(parameter).clone() for parameter in problem.model.parameters()]
        once = problem.train(optimizer, 3)

        again = Problem(sharded=True)
        with torch.no_grad():
            for parameter, part in zip(again.model.parameters(), parts, strict=True):
                local_part(parameter).copy_(part)
        fresh = make(again.groups())
        if fresh.state:
            complete_state(fresh)
        state = {"optimizer": get_optimizer_state_dict(again.model, fresh)}
        dcp.load(state, checkpoint_id=f"{folder}/{name}")
        set_optimizer_state_dict(again.model, fresh, state["optimizer"])
        assert again.train(fresh, 3) == once, name


def test_a_state_is_loaded_by_another_optimizer(tmp_path: Path) -> None:
    on_ranks(resume_all, str(tmp_path))


def step_with_a_broken_gradient(rank: int) -> None:
    dist.init_process_group("gloo")
    for make in (ParabolicAdam, SaLSA):
        problem = Problem(sharded=True)
        optimizer = make(problem.groups())
        problem.train(optimizer, 2)
        before = problem.weights()
        problem.loss().backward()
        if rank == 1:  # on one rank alone
            problem.model[0].weight.grad.to_local()[0, 0] = torch.nan
        optimizer.step(evaluate=problem.evaluate, loss=torch.tensor(1.0))
        assert optimizer.param_groups[0]["skipped"] == 1
        for now, then in zip(problem.weights(), before, strict=True):
            assert torch.equal(now, then)


def test_a_gradient_that_is_not_finite_on_one_rank_skips_the_step_on_all() -> None:
    on_ranks(step_with_a_broken_gradient)


def refuse_settings(rank: int) -> None:
    dist.init_process_group("gloo")
    for settings in (
        {"selection": "largest", "reselect_every": 2},
        {"selection": "fisher", "reselect_every": 2},
        {"selection": "random", "lookahead_width": 2},
        {"candidates": "at_once"},
    ):
        with pytest.raises(ValueError, match=r"needs? whole parameters"):
            GLD(Problem(sharded=True).groups(), subset_size=0.5, **settings)


def test_what_a_resumed_run_would_lose_is_refused() -> None:
    on_ranks(refuse_settings)
