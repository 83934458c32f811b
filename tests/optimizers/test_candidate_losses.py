"""Losses of several candidates at once are those of one at a time."""

from __future__ import annotations

import itertools
import warnings

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from optimizers import candidate_losses
from tests.architectures import VOCAB_SIZE, tiny_model


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


class _Doubled(torch.autograd.Function):
    """A function as models define them, without a rule for vmap (Bloom's GELU, YOSO's and PhiMoE's in transformers)."""

    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, grad):
        return 2 * grad


class _Refused(nn.Module):
    """A module that torch.func.vmap cannot run (torch 2.13), with dropout."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.first, self.last = kind, nn.Linear(5, 6), nn.Linear(6, 3)
        self.dropout = nn.Dropout(0.3)
        self.norm = nn.BatchNorm1d(6) if kind == "batch norm" else nn.Identity()

    def forward(self, inputs):
        hidden = self.norm(self.dropout(self.first(inputs)))
        if self.kind == "autograd function":
            hidden = _Doubled.apply(hidden)
        elif self.kind == "value read in Python" and hidden.mean().item() > 1e9:
            raise AssertionError
        elif self.kind == "number":
            return self.last(hidden).mean().item()
        return self.last(hidden)


@pytest.mark.parametrize("kind", ["autograd function", "batch norm", "value read in Python", "number"])
def test_what_vmap_refuses_is_computed_one_at_a_time_and_said_once(kind):
    module, inputs, labels = _Refused(kind), torch.randn(7, 5), torch.randint(0, 3, (7,))

    def loss():
        outputs = module(inputs)
        return outputs if kind == "number" else F.cross_entropy(outputs, labels)

    values = torch.randn(4, 6, 5)
    torch.manual_seed(1)
    with pytest.warns(UserWarning, match="_Refused: candidates are computed one at a time, as vmap refuses: ") as said:
        losses = candidate_losses(module, loss)([module.first.weight], [values])
    assert len(said) == 1
    after = torch.get_rng_state()
    expected = []
    for value in values:
        torch.manual_seed(1)
        with torch.no_grad():
            module.first.weight.copy_(value)
            expected.append(torch.as_tensor(loss()))
        assert torch.equal(torch.get_rng_state(), after)
    assert torch.equal(losses, torch.stack(expected))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        candidate_losses(module, loss)([module.first.weight], [values])


def test_an_error_of_the_loss_itself_comes_through():
    layer = nn.Linear(2, 2)

    def loss():
        layer(torch.zeros(1, 2))
        raise KeyError("labels")

    with pytest.raises(KeyError, match="labels"):
        candidate_losses(layer, loss)([layer.weight], [torch.zeros(3, 2, 2)])


@pytest.mark.parametrize("architecture", ["bert", "deberta-v2", "gpt2"])
def test_gradient_checkpointing_changes_nothing(architecture):
    """transformers 5 puts requires_grad_ on the embeddings' output, which vmap refuses in torch 2.13."""
    torch.manual_seed(0)
    model = tiny_model(architecture)
    batch = {"input_ids": torch.randint(3, VOCAB_SIZE, (4, 6)), "labels": torch.tensor([0, 1, 0, 1])}
    parameters = list(model.parameters())[-4:]
    values = [parameter + 0.1 * torch.randn(3, *parameter.shape) for parameter in parameters]
    found = []
    for checkpointing in (False, True):
        if checkpointing:
            model.activation_checkpointing_enable()
        torch.manual_seed(1)
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            found.append(candidate_losses(model, lambda: model(**batch).loss)(parameters, values))
    assert torch.equal(*found)
