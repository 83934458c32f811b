"""A frozen encoder's output is computed once per batch, and changes nothing."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from lightning_modules.features.frozen_encoder import FrozenEncoder
from lightning_modules.models.trainable_parts import freeze_all_but, frozen_modules
from tests.architectures import ARCHITECTURES, tiny_model


def batch_of(size=5, length=9, vocabulary=64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mask = torch.ones(size, length, dtype=torch.int64)
    mask[1, 6:] = 0
    return {
        "input_ids": torch.randint(3, vocabulary, (size, length), generator=generator) * mask,
        "attention_mask": mask,
    }


def head_only(name, mode="head"):
    torch.manual_seed(0)
    model = tiny_model(name).train()
    freeze_all_but(model, mode, [n for n, _ in model.named_parameters() if n.startswith(("classifier", "score"))])
    for module in frozen_modules(model):
        module.eval()
    return model


def logits(model, batch):
    return model(**batch).logits


def counted(modules):
    """A list whose entry counts how often the modules compute something from now on."""
    calls = [0]
    for module in modules:

        def forward(*args, original=module.forward, **kwargs):
            calls[0] += 1
            return original(*args, **kwargs)

        module.forward = forward
    return calls


@pytest.mark.parametrize("mode", ["head", "new"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_losses_and_gradients_are_bit_identical_and_the_encoder_runs_once(architecture, mode):
    model = head_only(architecture, mode)
    plain, batch = copy.deepcopy(model), batch_of()
    encoder = FrozenEncoder(model, lambda batch: logits(model, batch))
    constant = encoder.constant_modules(batch)
    assert constant
    trainable = {p for p in model.parameters() if p.requires_grad}
    frozen = sum(p.numel() for m in constant for p in m.parameters())
    assert frozen > sum(p.numel() for p in model.parameters()) / 2
    assert not trainable & {p for m in constant for p in m.parameters()}
    features = encoder.features(batch)
    calls = counted([m for module in constant for m in module.modules() if isinstance(m, nn.Embedding)][:1])
    for trial in range(3):
        torch.manual_seed(7)
        with features.reused():
            result = logits(model, batch)
        torch.manual_seed(7)
        expected = logits(plain, batch)
        assert torch.equal(result, expected), trial
        model.zero_grad()
        plain.zero_grad()
        result.square().sum().backward()
        expected.square().sum().backward()
        for one, other in zip(model.parameters(), plain.parameters(), strict=True):
            assert (one.grad is None) == (other.grad is None)
            if one.grad is not None:
                assert torch.equal(one.grad, other.grad)
        with torch.no_grad():
            for each in (model, plain):
                for parameter in each.parameters():
                    if parameter.requires_grad:
                        parameter.mul_(1.1)
    assert calls[0] == 1


def test_another_batch_is_computed_anew_and_nothing_stays_behind():
    model, batches = head_only("bert"), [batch_of(seed=seed) for seed in range(2)]
    encoder = FrozenEncoder(model, lambda batch: logits(model, batch))
    model.eval()
    expected = [logits(model, batch) for batch in batches]
    features = [encoder.features(batch) for batch in batches]
    for _ in range(2):
        for batch, kept, logit in zip(batches, features, expected, strict=True):
            with kept.reused():
                assert torch.equal(logits(model, batch), logit)
    calls = counted([model.bert.encoder])
    for _ in range(2):
        logits(model, batches[0])
    assert calls[0] == 2
    assert "forward" not in model.bert.embeddings.__dict__


def test_dropout_in_a_frozen_encoder_forbids_reuse():
    model = head_only("bert").train()
    outputs = FrozenEncoder(model, lambda batch: logits(model, batch))
    assert outputs.constant_modules(batch_of()) == []
    model.bert.encoder.eval()
    assert outputs.constant_modules(batch_of()) == [model.bert.encoder]


def test_what_follows_something_trainable_is_not_constant():
    model = tiny_model("bert").eval()
    model.requires_grad_(False)
    model.bert.embeddings.requires_grad_(True)
    outputs = FrozenEncoder(model, lambda batch: logits(model, batch))
    assert outputs.constant_modules(batch_of()) == []
    model.bert.embeddings.requires_grad_(False)
    model.classifier.requires_grad_(True)
    assert outputs.constant_modules(batch_of()) == [model.bert]
    model.bert.encoder.layer[1].requires_grad_(True)
    assert outputs.constant_modules(batch_of()) == [model.bert.embeddings, model.bert.encoder.layer[0]]


def test_looking_changes_neither_parameters_nor_random_numbers():
    model = head_only("bert")
    before = [p.detach().clone() for p in model.parameters()]
    state = torch.get_rng_state()
    assert FrozenEncoder(model, lambda batch: logits(model, batch)).constant_modules(batch_of())
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


class ScalesInPlace(nn.Module):
    def __init__(self):
        super().__init__()
        self.below, self.head = nn.Linear(3, 3), nn.Linear(3, 2)
        self.below.requires_grad_(False).eval()

    def forward(self, x):
        return self.head(self.below(x).mul_(2.0))


def test_an_output_that_is_changed_in_place_is_computed_again():
    model = ScalesInPlace()
    batch = {"x": torch.randn(4, 3)}
    outputs = FrozenEncoder(model, lambda batch: model(**batch))
    expected = model(**batch)
    features = outputs.features(batch)
    for _ in range(2):
        with features.reused():
            assert torch.equal(model(**batch), expected)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_freezing_leaves_the_head(architecture):
    model = head_only(architecture)
    trainable = [name for name, p in model.named_parameters() if p.requires_grad]
    assert any(name.startswith(("classifier", "score")) for name in trainable)
    assert not any(
        "layer" in name.split(".") or "embed" in name or name.startswith("transformer.h.") for name in trainable
    )


def test_freezing_everything_is_an_error():
    with pytest.raises(ValueError, match="nothing to train"):
        freeze_all_but(tiny_model("bert"), "new", [])
