"""Description of the machine and the version of the code that a run was made with."""

from __future__ import annotations

import contextlib
import os
import platform
import socket
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RUNS_AT_A_TIME = "LINETUNE_RUNS_AT_A_TIME"  # environment variable that the runner sets for its runs


def describe_machine() -> dict[str, Any]:
    """Return host, processor, memory, GPU, threads, runs at a time, the code's commit and the versions of packages."""
    machine: dict[str, Any] = {
        "host": socket.gethostname(),
        "cpu": _processor(),
        "cores": available_cores(),
        "ram_gib": _memory_gib(),
        "gpu": None,
        "threads": int(os.environ.get("OMP_NUM_THREADS", 0)) or None,
        "runs_at_a_time": int(os.environ.get(RUNS_AT_A_TIME, 0)) or None,
        "python": platform.python_version(),
        "commit": _commit(),
    }
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        machine["gpu"] = torch.cuda.get_device_name(0)
    for package in ("torch", "lightning", "transformers"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            machine[package] = metadata.version(package)
    return machine


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)
    except (AttributeError, OSError, ValueError):  # not available on Windows and some other systems
        return None


def _commit() -> str | None:
    try:
        git = subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return git.stdout.strip() or None
