"""The benchmark of a step's parts gives every part of a step to the method that has it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks import step_parts
from benchmarks.step_methods import methods
from tests.architectures import tiny_model

SEARCHES = {"trials", "slopes", "averages for a search", "copies for a search", "moves of a search"}
EVERY = {"forward and backward", "check that all is finite", step_parts.REST}


def batch() -> dict[str, Any]:
    return {"input_ids": torch.randint(1, 30, (4, 6)), "labels": torch.tensor([0, 1, 0, 1])}


@pytest.mark.parametrize(
    ("name", "first", "last"),
    [
        ("fused AdamW", EVERY - {"check that all is finite"} | {"updates without a search"}, None),
        ("ParabolicAdam", EVERY | SEARCHES, EVERY | {"updates without a search"}),
        ("SaLSA", EVERY | SEARCHES, None),
    ],
)
def test_a_step_has_its_parts_and_no_others(name: str, first: set[str], last: set[str] | None) -> None:
    torch.manual_seed(0)
    model = tiny_model("bert").train()
    method = methods(20)[name]
    optimizer = method.make(model)
    found = [
        {part for part, seconds in step_parts.parts_of_a_step(method, model, optimizer, batch()).items() if seconds}
        for _ in range(20)
    ]
    assert found[0] == first
    # Past half of the run ParabolicAdam neither searches nor splits a slope after 20 steps.
    assert last is None or found[-1] in (last, last | {"slopes"})


def test_the_table_adds_up() -> None:
    parts = [*step_parts.PARTS, step_parts.REST]
    seconds = {
        "a": dict.fromkeys(parts, 1.0),
        "b": {part: float(number) for number, part in enumerate(parts)},
    }
    lines = step_parts.table(seconds).splitlines()
    assert lines[0] == "| part, s | a | b |"
    assert lines[-2:] == ["| sum | 9.00 | 36.00 |", "| relative to a | 1.00 | 4.00 |"]


def test_a_measurement_trains_every_method_on_every_batch() -> None:
    torch.manual_seed(0)
    chosen = {name: methods(3)[name] for name in ("fused AdamW", "ParabolicAdam")}
    seconds = step_parts.measure(chosen, tiny_model("bert").train(), [batch() for _ in range(3)])
    assert list(seconds) == list(chosen)
    assert seconds["fused AdamW"]["trials"] == 0 < seconds["ParabolicAdam"]["trials"]
