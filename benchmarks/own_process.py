"""Measurements that a benchmark makes in a process of its own: in one that has done nothing before."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any


def measured_in_new_process(module: str, arguments: Sequence[str]) -> Any:
    """Return what a benchmark prints last, read as JSON, in a new process with the arguments of this one.

    Args:
        module: The benchmark's name in this package.
        arguments: Further arguments.

    Raises:
        RuntimeError: the process failed; with the last line that it wrote about it.
    """
    command = [sys.executable, "-m", f"benchmarks.{module}", *sys.argv[1:], *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        line = (done.stderr.strip().splitlines() or ["killed, out of memory?"])[-1]
        raise RuntimeError(f"{' '.join(arguments)}: {line}")
    return json.loads(done.stdout.strip().splitlines()[-1])
