"""Slots of this machine: its parts for one run at a time, a GPU or a number of CPU threads."""

from __future__ import annotations

import itertools
import os
import subprocess

from benchmarks.study.machine import RUNS_AT_A_TIME, available_cores


def find_slots(jobs: int | None = None, threads: int | None = None, device: str = "auto") -> list[dict[str, str]]:
    """Return the slots of this machine, one per GPU, or as many as the cores allow: the environment variables of each.

    Args:
        jobs: Number of runs at a time. Default: the number of GPUs, or cores divided by ``threads``.
        threads: CPU threads per run. Default: 1 without a GPU, else the cores shared out evenly.
        device: ``cpu``, ``cuda``, or ``auto`` for CUDA where there is one.

    Raises:
        ValueError: ``device`` is ``cuda`` and there is no CUDA device.
    """
    gpus = [] if device == "cpu" else _visible_gpus()
    if device == "cuda" and not gpus:
        raise ValueError("--device cuda: no CUDA device was found (allowed here: cpu, auto)")
    cores = available_cores()
    if gpus:
        jobs = jobs or len(gpus)
        threads = threads or max(1, cores // jobs)
        common = {**thread_variables(threads), RUNS_AT_A_TIME: str(jobs)}
        return [{**common, "CUDA_VISIBLE_DEVICES": gpus[i % len(gpus)]} for i in range(jobs)]
    threads = threads or 1
    jobs = jobs or max(1, cores // threads)
    # An empty CUDA_VISIBLE_DEVICES keeps runs with "accelerator: auto" on the CPU.
    common = {**thread_variables(threads), RUNS_AT_A_TIME: str(jobs), "CUDA_VISIBLE_DEVICES": ""}
    return [common] * jobs


def thread_variables(count: int) -> dict[str, str]:
    """Return the environment variables that give a run a number of CPU threads."""
    variables = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    # Threads of the tokenizer would compete with parallel runs.
    return {**dict.fromkeys(variables, str(count)), "TOKENIZERS_PARALLELISM": "false"}


def _visible_gpus() -> list[str]:
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        # As CUDA reads the variable: the devices before the first invalid one, such as -1.
        names = (name.strip() for name in named.split(","))
        return list(itertools.takewhile(lambda name: name and not name.startswith("-"), names))
    try:
        listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [str(i) for i, line in enumerate(listed.stdout.splitlines()) if line.startswith("GPU ")]
