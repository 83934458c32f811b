"""Refusing a checkpoint whose counters of epochs, batches and steps are absent or damaged: a fit goes on from them.

Lightning 2.6.6 starts at 0 without a word where one is absent, and goes on with whatever stands in its place.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning_modules.errors import ModelError

_STEPS = dict.fromkeys(("ready", "completed"), int)
_STARTS = _STEPS | {"started": int}
_PARTS = _STARTS | {"processed": int}


def _total_and_current(counters: Mapping[str, Any]) -> dict[str, Any]:
    return {"total": counters, "current": counters}


_BATCHES = _total_and_current(_PARTS) | {"is_last_batch": bool}
# What `loops.fit_loop` holds of every run; the states of loaders, which come beside it, are the loaders' own.
_COUNTERS: dict[str, Any] = {
    "epoch_progress": _total_and_current(_PARTS),
    "epoch_loop.batch_progress": _BATCHES,
    "epoch_loop.val_loop.batch_progress": _BATCHES,
    "epoch_loop.scheduler_progress": _total_and_current(_STEPS),
    "epoch_loop.manual_optimization.optim_step_progress": _total_and_current(_STEPS),
    "epoch_loop.automatic_optimization.optim_progress": {
        "optimizer": {"step": _total_and_current(_STEPS), "zero_grad": _total_and_current(_STARTS)}
    },
    "epoch_loop.state_dict": {"_batches_that_stepped": int},
    "state_dict": {},
}
_WORDS = {int: "a number, 0 or more", bool: "True or False"}


def check_counters(checkpoint: Mapping[str, Any]) -> None:
    """Check that a checkpoint has the counters that a fit goes on from.

    Args:
        checkpoint: A Lightning checkpoint with an entry ``loops``, a mapping.

    Raises:
        ModelError: if one is absent or is not of its kind; it names the counter, what it is and what it has to be.
    """
    if str(checkpoint.get("pytorch-lightning_version")).startswith(("0.", "1.")):
        return  # Lightning rearranges what those versions have written, after it has read the file
    _check(checkpoint["loops"], {"fit_loop": _COUNTERS}, "loops")


def _check(found: Any, expected: Any, name: str) -> None:
    if isinstance(expected, Mapping):
        if not isinstance(found, Mapping):
            raise ModelError(f"ckpt_path: {name} of the checkpoint is a {type(found).__name__}, not a dict")
        for key, value in expected.items():
            if key not in found and value:
                raise ModelError(f"ckpt_path: the checkpoint has no {name}.{key}: fit cannot go on from it")
            _check(found.get(key, value), value, f"{name}.{key}")
    elif type(found) is not expected or found < 0:
        raise ModelError(f"ckpt_path: {name} of the checkpoint is {found!r}, not {_WORDS[expected]}")
