"""A function run in several processes of this machine, one per rank, with the environment that torchrun gives them."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

_variables: dict[str, str] = {}


def on_ranks(function: Callable[..., Any], *args: Any, ranks: int = 2) -> list[Any]:
    """Call `function(rank, *args)` on every rank at once, and return what each has returned: tensors and plain values.

    Whatever one of them raises is raised here.

    Processes are forked. One that is spawned ends by tearing down its interpreter, and torch 2.13 aborts there now and
    then ("terminate called without an active exception") when a thread of gloo releases a tensor at that moment.
    """
    # Below the ports that the system gives to outgoing connections, so that nobody takes it before the ranks do.
    for port in range(20_000 + os.getpid() % 10_000, 32_768):
        with socket.socket() as tried:
            if tried.connect_ex(("127.0.0.1", port)) != 0:
                break
    with tempfile.TemporaryDirectory() as folder:
        mp.start_processes(_run, args=(function, args, ranks, port, Path(folder)), nprocs=ranks, start_method="fork")
        return [torch.load(Path(folder, f"{rank}.pt")) for rank in range(ranks)]


def set_variables() -> None:
    """Set the rank's variables again, of which a Trainer deletes one at the end of a fit."""
    os.environ |= _variables


def _run(rank: int, function: Callable[..., Any], args: tuple[Any, ...], ranks: int, port: int, folder: Path) -> None:
    _variables.update(
        {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "NODE_RANK": "0",
            "WORLD_SIZE": str(ranks),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
    )
    set_variables()
    torch.set_num_threads(1)
    torch.save(function(rank, *args), folder / f"{rank}.pt")
    if dist.is_initialized():
        dist.destroy_process_group()
