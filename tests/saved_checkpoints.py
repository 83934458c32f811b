"""Checkpoints of runs that were never trained, and the configurations that lead to them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from jsonargparse import Namespace
from lightning.pytorch import Trainer

WHOLE = {
    **{"state_dict": {}, "pytorch-lightning_version": "2.6.6", "epoch": 0, "global_step": 3},
    **{"optimizer_states": [{}], "lr_schedulers": [], "callbacks": {}},
    "loops": {"fit_loop": Trainer(accelerator="cpu", logger=False, enable_checkpointing=False).fit_loop.state_dict()},
}

# The first line of a configuration that lightning 2.6.6 has saved.
HEADER = "# lightning.pytorch==2.6.6\n"


def configuration(root: Path, logger: Any = None, callbacks: list[Namespace] | Namespace | None = None) -> Namespace:
    return Namespace(trainer=Namespace(default_root_dir=str(root), logger=logger, callbacks=callbacks))


def logger(root: Path, name: str = "TensorBoardLogger", **arguments: Any) -> Namespace:
    defaults = {"save_dir": str(root), "name": "exp", "version": None}
    path = f"lightning.pytorch.loggers.{name}"
    return Namespace(class_path=path, init_args=Namespace(**(defaults | arguments)))


def saved(path: Path, age: float = 0, **changes: Any) -> Path:
    """Write a checkpoint that was changed so many seconds ago."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({name: value for name, value in (WHOLE | changes).items() if value is not None}, path)
    os.utime(path, (1_000_000 - age,) * 2)
    return path
