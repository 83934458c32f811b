"""Errors that say that another process of a distributed run has ended."""

from __future__ import annotations

import os

import torch.distributed as dist

from lightning_modules.errors import first_line


def line_about_lost_rank(error: RuntimeError) -> str | None:
    """Return one line for an error of a collective that another rank has left; None for other errors.

    Args:
        error: What a collective raised. NCCL has a class for it; gloo raises a RuntimeError (torch 2.13).
    """
    if not dist.is_available():
        return None
    of_gloo = "gloo/transport" in str(error) and "peer" in str(error)
    if not of_gloo and not isinstance(error, dist.DistBackendError | dist.DistNetworkError):
        return None
    # Lightning's launcher numbers the ranks of a machine, torchrun and SLURM those of a run.
    rank = os.environ.get("RANK") or os.environ.get("LOCAL_RANK") or "0"
    said = first_line(error)
    return f"rank {rank} lost another rank of the run and ends, too; that rank's own error says why ({said})"
