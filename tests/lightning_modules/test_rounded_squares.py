"""Optimizers whose average of squared gradients is kept in bfloat16."""

from __future__ import annotations

import warnings
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_modules import ClosureModule
from optimizers import ParabolicAdam, SaLSA
from tests.quiet_trainer import quiet_trainer


class Small(ClosureModule):
    """A linear regression."""

    def __init__(self, optimizer: Any) -> None:
        super().__init__(optimizer=optimizer)
        self.layer = nn.Linear(4, 1)

    def compute_loss(self, batch: Tensor) -> Tensor:
        return (self.layer(batch.to(self.layer.weight.dtype)) - 1).square().mean()


@pytest.mark.parametrize(
    ("optimizer", "precision", "named"),
    [
        (partial(torch.optim.AdamW, lr=1e-3), "bf16-true", "AdamW"),
        (ParabolicAdam, "bf16-true", "ParabolicAdam"),
        (SaLSA, "bf16-true", "SaLSA"),
        (partial(torch.optim.AdamW, lr=1e-3, betas=(0.9, 0.99)), "bf16-true", None),
        (partial(torch.optim.SGD, lr=1e-3, momentum=0.9), "bf16-true", None),
        (partial(torch.optim.AdamW, lr=1e-3), "bf16-mixed", None),
        (partial(torch.optim.AdamW, lr=1e-3), "32-true", None),
    ],
)
def test_an_average_of_squared_gradients_that_cannot_fall_is_warned_of(
    optimizer: Any, precision: Any, named: str | None, tmp_path: Path
) -> None:
    fits = quiet_trainer(max_steps=3, precision=precision, default_root_dir=tmp_path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fits.fit(Small(optimizer), DataLoader(torch.randn(24, 4), batch_size=8))
    said = [str(each.message) for each in caught if "average of squared gradients" in str(each.message)]
    beginnings = (
        [] if named is None else [f"optimizer: {named} keeps its average of squared gradients in torch.bfloat16"]
    )
    assert [each.partition(",")[0] for each in said] == beginnings


@pytest.mark.parametrize(("beta2", "falls"), [(0.999, False), (0.997, False), (0.99, True)])
def test_torch_still_holds_the_largest_squares(beta2: float, falls: bool) -> None:
    """What the warning says, of torch: where this fails, see warn_of_rounded_squares."""
    torch.manual_seed(0)
    weights = nn.Parameter(torch.ones(64, dtype=torch.bfloat16))
    optimizer = torch.optim.AdamW([weights], lr=0.0, betas=(0.9, beta2))
    for scale in (1.0, 0.01):
        for _ in range(1500):
            weights.grad = (scale * torch.randn(64)).bfloat16()
            optimizer.step()
    assert (float(optimizer.state[weights]["exp_avg_sq"].mean()) < 1e-3) == falls
