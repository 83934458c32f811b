"""What a schedule watches that a module's own `configure_optimizers` has made: Lightning drops it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def monitor_in(configuration: Any) -> str | None:
    """Return the metric that a return value of `configure_optimizers` names as `monitor`; None without one.

    Under manual optimization Lightning 2.6.6 drops it.

    Args:
        configuration: What `configure_optimizers` has returned, in any of the forms that Lightning takes.
    """
    if isinstance(configuration, Mapping):
        inner = monitor_in(configuration["lr_scheduler"]) if "lr_scheduler" in configuration else None
        return inner if inner is not None else configuration.get("monitor")
    if isinstance(configuration, list | tuple):
        return next((found for each in configuration if (found := monitor_in(each)) is not None), None)
    return None
