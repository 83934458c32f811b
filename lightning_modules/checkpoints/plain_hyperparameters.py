"""Hyperparameters that a checkpoint can hold: values that torch reads without running code of the file."""

from __future__ import annotations

import io
from collections.abc import Collection
from typing import Any

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import nn

_KEYS = ("hyper_parameters", "datamodule_hyper_parameters")


def keep_plain_hyperparameters(checkpoint: dict[str, Any], not_needed: Collection[str]) -> None:
    """Remove hyperparameters that would keep torch from reading a checkpoint, and name them in a warning.

    ``save_hyperparameters()`` keeps classes, functions and objects as well. For one of them torch refuses the whole
    file (``weights_only=True``, its default), and no run could go on from it.

    Args:
        checkpoint: The checkpoint that is about to be saved.
        not_needed: Hyperparameters that a module does without when it is loaded; they are not named.
    """
    for key in _KEYS:
        kept = checkpoint.get(key)
        if not isinstance(kept, dict):
            continue
        refused = [name for name, value in kept.items() if not _is_plain(value)]
        checkpoint[key] = type(kept)({name: value for name, value in kept.items() if name not in refused})
        if named := [str(name) for name in refused if name not in not_needed]:
            rank_zero_warn(
                f"checkpoints are saved without {', '.join(named)} of {key}, which torch would not read from a file; "
                "load_from_checkpoint takes them as arguments (save_hyperparameters(ignore=…) avoids this warning)"
            )


def _is_plain(value: Any) -> bool:
    """Return whether torch writes a value and reads it again with ``weights_only=True``."""
    if value is None or isinstance(value, bool | int | float | str):
        return True
    if isinstance(value, nn.Module):
        return False  # whose weights would be written here to no end
    buffer = io.BytesIO()
    try:
        torch.save(value, buffer)
        buffer.seek(0)
        torch.load(buffer, weights_only=True)
    except Exception:  # of any kind: a class decides how it is written
        return False
    return True
