"""The README: its loop runs as it stands, its links lead somewhere, and it stays a front page."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_the_plain_loop_trains() -> None:
    (loop,) = re.findall(r"```python\n(from optimizers.*?)```", README, re.DOTALL)
    assert len([line for line in loop.splitlines() if line.strip()]) <= 12
    torch.manual_seed(0)
    inputs = torch.randn(256, 4)
    model, loss_function = nn.Linear(4, 2), nn.CrossEntropyLoss()
    labels = (inputs[:, 0] > 0).long()
    names: dict[str, Any] = {
        "model": model,
        "loss_function": loss_function,
        "loader": list(zip(inputs.split(32), labels.split(32), strict=True)),
        "epochs": 20,
    }
    before = loss_function(model(inputs), labels).item()
    exec(loop, names)
    assert loss_function(model(inputs), labels).item() < 0.8 * before


def test_it_is_at_most_130_lines() -> None:
    assert len(README.splitlines()) <= 130


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\(([^)#]+)\)", README))))
def test_links_lead_somewhere(target: str) -> None:
    assert target.startswith("https://") or (ROOT / target).exists()


def test_configurations_that_it_names_exist() -> None:
    for config in re.findall(r"configs/[\w/]+\.yaml", README):
        assert (ROOT / config).is_file(), config
