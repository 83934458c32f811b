"""Averages of the weights by Lightning's callbacks, of weights in a lower precision."""

from __future__ import annotations

import warnings
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_modules import ClosureModule
from tests.quiet_trainer import quiet_trainer


class Larger(ClosureModule):
    """Trains half of its weights towards larger ones."""

    def __init__(self, trained: torch.dtype, frozen: torch.dtype) -> None:
        super().__init__(optimizer=partial(torch.optim.SGD, lr=0.1))
        self.trained = nn.Parameter(torch.ones(4, dtype=trained))
        self.frozen = nn.Parameter(torch.ones(4, dtype=frozen), requires_grad=False)

    def compute_loss(self, batch: Any) -> Tensor:
        return ((self.trained.float() - 1.3 * self.frozen.float()) ** 2).sum()


@pytest.mark.parametrize(
    ("trained", "frozen", "precision", "says"),
    [
        (torch.float32, torch.float32, "32-true", False),
        (torch.float32, torch.bfloat16, "32-true", False),
        (torch.bfloat16, torch.bfloat16, "32-true", True),
        (torch.float32, torch.float32, "bf16-true", True),
        (torch.float32, torch.float32, "bf16-mixed", False),
    ],
)
def test_an_average_of_weights_in_a_lower_precision_is_warned_of(
    trained: torch.dtype, frozen: torch.dtype, precision: Any, says: bool, tmp_path: Path
) -> None:
    fits = quiet_trainer(max_steps=2, precision=precision, callbacks=[EMAWeightAveraging()], default_root_dir=tmp_path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fits.fit(Larger(trained, frozen), DataLoader(range(4)))
    said = [each for each in map(str, (each.message for each in caught)) if "their average is rounded" in each]
    assert [each.startswith("trainer.callbacks: EMAWeightAveraging: the weights are in torch.bf") for each in said] == [
        True
    ] * says
