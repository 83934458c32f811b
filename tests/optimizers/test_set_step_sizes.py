"""Step sizes that something else sets between two steps of an optimizer that finds its own: one warning."""

from __future__ import annotations

import copy
import pickle
import warnings

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from transformers import get_constant_schedule, get_linear_schedule_with_warmup

from optimizers import traits
from tests.optimizers.all_optimizers import OPTIMIZERS

FIND_THEIR_OWN = {
    name: make for name, make in OPTIMIZERS.items() if traits(make([nn.Parameter(torch.ones(1))])).sets_step_size
}
every_optimizer = pytest.mark.parametrize("make", FIND_THEIR_OWN.values(), ids=FIND_THEIR_OWN.keys())


class OneLayer:
    """Steps of a linear regression.

    Args:
        make: Makes the optimizer from parameters.
    """

    def __init__(self, make):
        generator = torch.Generator().manual_seed(0)
        self.model = nn.Linear(4, 1, bias=False)
        self.inputs = torch.randn(8, 4, generator=generator)
        self.optimizer = make(self.model.parameters())

    def step(self):
        def closure():
            self.optimizer.zero_grad()
            loss = (self.model(self.inputs) - 1).square().mean()
            loss.backward()
            return loss

        return self.optimizer.step(closure)


def warnings_of(run):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run()
    return [str(each.message) for each in caught if "set lr between two steps" in str(each.message)]


@every_optimizer
@pytest.mark.parametrize(
    "schedule", [get_constant_schedule, lambda optimizer: get_linear_schedule_with_warmup(optimizer, 2, 9)]
)
def test_a_schedule_is_warned_of_once(make, schedule):
    of = OneLayer(make)
    rates = schedule(of.optimizer)

    def run():
        for _ in range(6):
            of.step()
            rates.step()

    (warning,) = warnings_of(run)
    assert warning.startswith(f"{type(of.optimizer).__name__}: ")


@every_optimizer
def test_the_warning_is_shown_where_transformers_hides_those_of_schedules(make):
    of = OneLayer(make)
    rates = get_linear_schedule_with_warmup(of.optimizer, 2, 9)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.filterwarnings("ignore", category=UserWarning, module="torch.optim.lr_scheduler")
        for _ in range(3):
            of.step()
            rates.step()
    assert any("set lr between two steps" in str(each.message) for each in caught)


@every_optimizer
def test_groups_states_and_copies_are_no_change_of_step_sizes(make):
    of = OneLayer(make)

    class LeavesRates(LRScheduler):
        def get_lr(self):
            return [group["lr"] for group in self.optimizer.param_groups]

    def run():
        rates = LeavesRates(of.optimizer)
        of.step()
        rates.step()
        of.step()
        state = copy.deepcopy(of.optimizer.state_dict())
        for _ in range(3):
            of.step()
        of.optimizer.load_state_dict(state)
        of.step()
        of.optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2))]})
        of.step()
        for again in (copy.deepcopy, lambda made: pickle.loads(pickle.dumps(made))):
            of.model, of.optimizer = again((of.model, of.optimizer))
            of.step()
            of.step()

    assert not warnings_of(run)


def test_an_optimizer_with_a_learning_rate_is_left_alone():
    of = OneLayer(OPTIMIZERS["mezo"])
    rates = LambdaLR(of.optimizer, lambda step: 1 / (step + 1))

    def run():
        for _ in range(3):
            of.step()
            rates.step()

    assert not warnings_of(run)
