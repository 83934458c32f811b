"""Arguments that count something are integers: whatever is annotated so is refused as anything else, in one line."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, get_args, get_type_hints

import numpy
import pytest
import torch
from torch import nn

from optimizers import (
    GLD,
    SGDSLS,
    AdamSLS,
    ArmijoSearch,
    CommonOptions,
    Drift,
    LineSearchMeZO,
    MeZO,
    ParabolicAdam,
    Ratio,
    SaLSA,
    search_interval,
)

# A number of bytes is a limit, which any number may be.
_LIMITS = {"copy_limit"}


def integer_arguments(of: Callable[..., Any]) -> dict[str, bool]:
    """The names of the arguments that are annotated as integers, and whether None may be given."""
    hints = get_type_hints(of.__init__ if isinstance(of, type) else of)
    if "options" in inspect.signature(of).parameters:
        hints = {**get_type_hints(CommonOptions), **hints}
    found = {name: (hint, *get_args(hint)) for name, hint in hints.items() if name not in _LIMITS}
    return {name: type(None) in kinds for name, kinds in found.items() if int in kinds and float not in kinds}


def with_parameter(optimizer: Callable[..., Any]) -> Callable[..., Any]:
    return lambda **arguments: optimizer([nn.Parameter(torch.ones(2))], **arguments)


def interval(**arguments: Any) -> Any:
    return search_interval(abs, 1.0, 0.2, 0.0, 1.0, **arguments)


MAKERS: dict[Callable[..., Any], Callable[..., Any]] = {
    **{each: with_parameter(each) for each in (ParabolicAdam, AdamSLS, SGDSLS, SaLSA, GLD, MeZO, LineSearchMeZO)},
    **{each: each for each in (ArmijoSearch, Drift, Ratio)},
    search_interval: interval,
}
EVERY = [(of, name, or_none) for of in MAKERS for name, or_none in integer_arguments(of).items()]
every_integer = pytest.mark.parametrize(
    ("of", "name", "or_none"), EVERY, ids=[f"{of.__name__}-{name}" for of, name, _ in EVERY]
)


def test_the_arguments_are_found() -> None:
    names = {(of.__name__, name) for of, name, _ in EVERY}
    known = {("ParabolicAdam", "total_steps"), ("SaLSA", "joint_steps"), ("GLD", "seed"), ("Drift", "max_interval")}
    assert known <= names


@every_integer
@pytest.mark.parametrize("value", [2.5, 3.0, True, "3", float("nan"), float("inf")])
def test_what_is_no_integer_is_refused_in_one_line(of: Any, name: str, or_none: bool, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{name}: {value!r} is not allowed; an integer.*$") as error:
        MAKERS[of](**{name: value})
    assert ("or None" in str(error.value)) == or_none


@every_integer
def test_an_integer_is_taken_also_numpys(of: Any, name: str, or_none: bool) -> None:
    for value in (3, numpy.int64(3), *([None] if or_none else [])):
        assert MAKERS[of](**{name: value}) is not None
