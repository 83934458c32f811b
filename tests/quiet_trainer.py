"""A Trainer for tests."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Trainer


def quiet_trainer(**settings: Any) -> Trainer:
    """A Trainer on the CPU that shows, logs and saves nothing but what it is asked to."""
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return Trainer(**({"accelerator": "cpu", "enable_model_summary": False} | quiet | settings))
