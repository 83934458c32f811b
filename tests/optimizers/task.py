"""A small classification for optimizers that need no gradient, and the comparison of its parameters to the bit."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F


class Task:
    """A small classifier on one fixed batch, in float32."""

    def __init__(self, seed=0):
        generator = torch.Generator().manual_seed(seed)
        torch.manual_seed(seed)
        self.model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
        self.inputs = torch.randn(32, 6, generator=generator)
        self.labels = torch.randint(0, 3, (32,), generator=generator)

    def loss(self):
        return F.cross_entropy(self.model(self.inputs), self.labels)

    def closure(self):
        self.model.zero_grad()
        loss = self.loss()
        loss.backward()
        return loss

    def groups(self):
        return [
            {"params": [self.model[0].weight], "name": "a.weight", "unit": "a"},
            {"params": [self.model[0].bias], "name": "a.bias", "unit": "a"},
            {"params": self.model[2].parameters(), "name": "b"},
        ]

    def bits(self):
        return [p.detach().clone().view(torch.int32) for p in self.model.parameters()]


def same_bits(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
