"""Graphs of operations that XLA has recorded and not carried out yet."""

from __future__ import annotations

import importlib

import torch


def end_graph(device: torch.device) -> None:
    """End the graph that XLA is recording, and carry it out; on other devices, do nothing.

    XLA compiles a graph for each sequence of operations. After a decision that depends on losses, a graph that went on
    would hold the sequence of all decisions since the last one, and every step would compile new ones.

    Args:
        device: Where the parameters are.
    """
    if device.type == "xla":
        importlib.import_module("torch_xla").sync()
