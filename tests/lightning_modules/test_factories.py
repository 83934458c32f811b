"""Which of the offered keywords a factory takes."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR, StepLR

from lightning_modules.steps.factories import unset_keywords

OFFERED = {"total_steps": 80, "T_max": 80}


def with_any_keyword(cls: type, *args: Any, **kwargs: Any) -> Any:
    """How jsonargparse hands a class over: a partial of a function that takes anything, all arguments as keywords."""
    return cls(*args, **kwargs)


@pytest.mark.parametrize(
    ("factory", "expected"),
    [
        (partial(OneCycleLR, max_lr=1e-3), {"total_steps": 80}),
        (partial(OneCycleLR, max_lr=1e-3, total_steps=7), {}),
        (CosineAnnealingLR, {"T_max": 80}),
        (partial(StepLR, step_size=3), {}),
        (partial(with_any_keyword, OneCycleLR, max_lr=1e-3, total_steps=None), {"total_steps": 80}),
        (partial(with_any_keyword, OneCycleLR, max_lr=1e-3, total_steps=9), {}),
        (lambda optimizer: StepLR(optimizer, 3), {}),
    ],
)
def test_only_unset_keywords_are_filled(factory: Any, expected: dict[str, int]) -> None:
    assert unset_keywords(factory, OFFERED) == expected
