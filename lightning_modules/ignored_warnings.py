"""Warnings of libraries about what a user of this one cannot change, which are ignored."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


def ignore_calls_between_libraries() -> None:
    """Ignore what Lightning calls and torch has deprecated, and what it says of every datamodule."""
    # Lightning 2.6.6 with torch 2.13, in every run that validates.
    warnings.filterwarnings(
        "ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", module=r"lightning\.pytorch\.utilities\._pytree"
    )
    # Lightning says so whether or not the datamodule has a hook of its own.
    warnings.filterwarnings(
        "ignore", "You have overridden `on_before_batch_transfer` in `LightningModule` but have passed"
    )


def ignore_dropped_monitor() -> None:
    """Ignore that Lightning drops the `monitor` of a schedule under manual optimization: the module keeps it."""
    message = re.escape("The lr scheduler dict contains the key(s) ['monitor'], but the keys will be ignored")
    warnings.filterwarnings("ignore", message, RuntimeWarning)


def ignore_frozen_in_eval_mode(module: nn.Module) -> None:
    """Ignore Lightning's warning about modules in eval mode, of as many as a module has now.

    Args:
        module: A module whose frozen parts were put into eval mode on purpose. Where another one is found in eval mode
            at the start of a fit, Lightning counts more, and warns.
    """
    count = sum(not each.training for each in module.modules())
    if count:
        message = re.escape(f"Found {count} module(s) in eval mode at the start of training")
        warnings.filterwarnings("ignore", message, module=r"lightning\.pytorch\.loops\.fit_loop")


@contextmanager
def quiet_peft() -> Iterator[None]:
    """Ignore, inside the context, that peft 0.21.2 reads a property of a model that transformers 5.23 has renamed."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        yield
