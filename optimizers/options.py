"""Options of searches and cadences: what the line search optimizers share, and how a param group keeps them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal, TypedDict, TypeVar

from optimizers.units import UpdateRule

Reset = Literal["keep", "grow", "restart"]
T = TypeVar("T")


class CommonOptions(TypedDict, total=False):
    """The options that `AdamSLS`, `SGDSLS` and `SaLSA` share.

    Args:
        reset: Where a search starts: at the last step size ("keep"), grown by `growth` ("grow", the default) or at
            `initial_step_size` ("restart").
        bracket: The coarser factor that a search comes down by at first, and later after three rejections; it then
            closes in to within one `shrink`. None: by `shrink` alone. Default: 0.2.
        patience: How many rejections by `shrink` come before the first by `bracket`, in a search that starts from a
            step size found before. Default: 3.
        max_trials: The largest number of trials of one search. Default: 30.
        min_step_size: No smaller step size is tried. Default: 1e-10.
        max_step_size: No larger step size is tried. Default: 10.
        relative_tolerance: Losses that differ by less than this share count as equal. Default: 1e-6, which suits losses
            computed in float32; under autocast to bfloat16, 1e-4 or more.
        update_rule: Which units search. "joint" (the default): the whole model has one step size. Otherwise every unit
            has its own: "cycle" searches for one of them per step, in turn; "all" for each of them in every step, then
            for one factor for all; "impact" for the one with the largest expected decrease.
        joint_steps: How many searches all units do together before each has its own. Default: 5.
        merge_threshold: A unit whose step size falls below this joins its neighbour. Default: None, which never merges.
    """

    reset: Reset
    bracket: float | None
    patience: int
    max_trials: int
    min_step_size: float
    max_step_size: float
    relative_tolerance: float
    update_rule: UpdateRule
    joint_steps: int
    merge_threshold: float | None


def with_options(rule: T, options: Mapping[str, Any]) -> T:
    """Return a search or a cadence with some of its fields replaced.

    Raises:
        TypeError: It has no field of such a name.
        ValueError: A value is out of its range.
    """
    return replace(rule, **options)  # type: ignore[type-var]


def in_force(rule: T, group: Mapping[str, Any]) -> T:
    """Return a search or a cadence with the options of a param group."""
    own = vars(rule)
    for name, value in own.items():
        if group[name] != value:
            return with_options(rule, {name: group[name] for name in own})
    return rule
