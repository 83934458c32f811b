"""Operations that a device has noted and not carried out yet."""

from __future__ import annotations

import importlib

import torch


def carry_out(device: torch.device) -> None:
    """Let a device that collects operations into graphs (XLA) carry out those that are pending; others have none.

    A graph is compiled for each sequence of operations. Where they depend on a decision, the next graph would hold the
    sequence of all decisions since the last one, and every step would compile new ones.

    Args:
        device: Where the parameters are.
    """
    if device.type == "xla":
        importlib.import_module("torch_xla").sync()
