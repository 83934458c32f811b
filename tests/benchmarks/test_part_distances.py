"""Distances by part are those of the parabola, and leave the weights as they were."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks import part_distances


class Quadratic(nn.Module):
    """A loss whose minimum is 0, with a curvature of its own along each parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.steep, self.flat = nn.Parameter(torch.tensor([3.0])), nn.Parameter(torch.tensor([0.0]))

    def compute_loss(self, batch: Any) -> Tensor:
        return (50 * self.steep**2 + 0.5 * (self.flat - 4) ** 2).sum()


def test_the_distance_is_that_of_the_parabola_and_the_parameters_stay() -> None:
    model: Any = Quadratic().double()
    loss = model.compute_loss(None)
    loss.backward()
    up = torch.ones(1, dtype=torch.double)
    # The root of 2 f / a: 2 (450 + 8) / 100 along the one, 2 (450 + 8) / 1 along the other.
    assert part_distances.distance(model, {}, {model.steep: up}) == pytest.approx(9.16**0.5)
    assert part_distances.distance(model, {}, {model.flat: -up}) == pytest.approx(916**0.5)
    assert model.steep.item() == 3.0
    assert model.flat.item() == 0.0


def test_parts_are_the_encoder_what_is_above_it_and_what_is_new(capsys: pytest.CaptureFixture[str]) -> None:
    part_distances.main(["sst2", "--steps", "1", "2", "--batch-size", "4"])
    lines = capsys.readouterr().out.splitlines()[-5:]
    assert lines[0] == "| task | part | step 1 | step 2 | of the encoder's, geometric mean |"
    assert [line.split(" | ")[1] for line in lines[2:]] == ["encoder", "pooler", "new head"]
    assert lines[2].endswith("| 1 |")
