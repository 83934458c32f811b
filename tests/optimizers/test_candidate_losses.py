"""Losses of several candidates at once are those of one at a time."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from optimizers import candidate_losses


class Network(nn.Module):
    """Linear layers with and without bias, on inputs of two and of three dimensions, and a norm."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Linear(5, 6), nn.LayerNorm(6)
        self.second, self.last = nn.Linear(6, 4, bias=False), nn.Linear(4, 3)
        self.dropout = nn.Dropout(0.3)

    def forward(self, tokens):
        return self.last(self.dropout(torch.tanh(self.second(self.norm(self.first(tokens))))).mean(1))


@pytest.mark.parametrize(
    "names",
    [
        *([name] for name, _ in Network().named_parameters()),
        *(list(pair) for pair in itertools.combinations(["first.weight", "second.weight", "last.bias"], 2)),
        [name for name, _ in Network().named_parameters()],
    ],
    ids=lambda names: "+".join(names),
)
@pytest.mark.parametrize("chunk_size", [None, 2])
def test_losses_are_those_of_one_at_a_time(names, chunk_size):
    network, inputs, labels = Network().double(), torch.randn(7, 4, 5).double(), torch.randint(0, 3, (7,))
    parameters = dict(network.named_parameters())
    values = [parameters[name] + 0.3 * torch.randn(5, *parameters[name].shape) for name in names]

    def loss():
        return F.cross_entropy(network(inputs), labels)

    torch.manual_seed(1)
    losses = candidate_losses(network, loss, chunk_size)([parameters[name] for name in names], values)
    assert losses.shape == (5,)
    assert not losses.requires_grad
    if chunk_size is None:  # the chunks draw one after the other
        for row in range(5):
            torch.manual_seed(1)
            outputs = functional_call(
                network, {name: value[row] for name, value in zip(names, values, strict=True)}, inputs
            )
            torch.testing.assert_close(losses[row], F.cross_entropy(outputs, labels))
    network.eval()
    chunked = candidate_losses(network, loss, chunk_size)([parameters[name] for name in names], values)
    whole = candidate_losses(network, loss)([parameters[name] for name in names], values)
    torch.testing.assert_close(chunked, whole)


@pytest.mark.parametrize(
    "settings",
    [{}, {"reduction": "sum"}, {"label_smoothing": 0.2}, {"weight": torch.tensor([0.5, 1, 2])}, {"ignore_index": 1}],
    ids=str,
)
@pytest.mark.parametrize("ignored", [False, True])
def test_every_cross_entropy(settings, ignored):
    layer, inputs = nn.Linear(5, 3), torch.randn(7, 5)
    labels = torch.tensor([0, 1, 2, 0, 1, 2, -100 if ignored and "ignore_index" not in settings else 0])
    values = torch.randn(4, 3, 5)
    many = candidate_losses(layer, lambda: F.cross_entropy(layer(inputs), labels, **settings))
    losses = many([layer.weight], [values])
    for loss, value in zip(losses, values, strict=True):
        torch.testing.assert_close(loss, F.cross_entropy(F.linear(inputs, value, layer.bias), labels, **settings))


def test_cross_entropy_of_tokens_and_of_probabilities():
    layer, inputs = nn.Linear(5, 3), torch.randn(7, 4, 5)
    labels, shares = torch.randint(0, 3, (7, 4)), torch.rand(7, 3)
    values = torch.randn(4, 3, 5)

    def loss_of(outputs):
        return F.cross_entropy(outputs.mT, labels) + F.cross_entropy(outputs[:, 0], shares)

    losses = candidate_losses(layer, lambda: loss_of(layer(inputs)))([layer.weight], [values])
    for loss, value in zip(losses, values, strict=True):
        torch.testing.assert_close(loss, loss_of(F.linear(inputs, value, layer.bias)))


def test_the_classes_are_not_the_last_dimension_of_a_softmax():
    layer, inputs, labels = nn.Linear(5, 2), torch.randn(30, 5), torch.randint(0, 2, (30,))
    shapes = []

    class Softmaxes(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func is torch.ops.aten._log_softmax.default:
                shapes.append((args[0].shape, args[1]))
            return func(*args, **(kwargs or {}))

    many = candidate_losses(layer, lambda: F.cross_entropy(layer(inputs), labels))
    with Softmaxes():
        many([layer.weight], [torch.randn(50, 2, 5)])
    assert shapes == [((30, 2, 50), 1)]


def test_the_module_is_left_as_it_was():
    network = Network()
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    parameters = list(network.parameters())
    inputs = torch.randn(2, 4, 5)
    candidate_losses(network, lambda: network(inputs).sum())([parameters[0]], [torch.zeros(3, *parameters[0].shape)])
    after = dict(network.named_parameters())
    assert list(after.values()) == parameters
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_the_input_is_not_repeated_for_every_candidate():
    layer = nn.Linear(1000, 2)
    inputs = torch.randn(500, 1000)
    sizes = []

    class Sizes(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            sizes.extend(t.numel() for t in torch.utils._pytree.tree_leaves(result) if isinstance(t, torch.Tensor))
            return result

    many = candidate_losses(layer, lambda: layer(inputs).square().mean())
    with Sizes():
        many([layer.weight], [torch.randn(50, 2, 1000)])
    assert max(sizes) <= 1000 * 100


def test_a_tensor_that_is_no_parameter_is_an_error():
    layer = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="no parameter of the Linear"):
        candidate_losses(layer, lambda: layer.weight.sum())([torch.zeros(2)], [torch.zeros(3, 2)])
