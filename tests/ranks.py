"""A function run in several processes of this machine, one per rank, with the environment that torchrun gives them."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any

import torch
import torch.multiprocessing as mp


def on_ranks(function: Callable[..., None], *args: Any, ranks: int = 2) -> None:
    """Call `function(rank, *args)` on every rank at once; whatever one of them raises is raised here.

    Processes are forked. One that is spawned ends by tearing down its interpreter, and torch 2.13 aborts there now and
    then ("terminate called without an active exception") when a thread of gloo releases a tensor at that moment.
    """
    # Below the ports that the system gives to outgoing connections, so that nobody takes it before the ranks do.
    for port in range(20_000 + os.getpid() % 10_000, 32_768):
        with socket.socket() as tried:
            if tried.connect_ex(("127.0.0.1", port)) != 0:
                break
    mp.start_processes(_run, args=(function, args, ranks, port), nprocs=ranks, start_method="fork")


def _run(rank: int, function: Callable[..., None], args: tuple[Any, ...], ranks: int, port: int) -> None:
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "NODE_RANK": "0",
        "WORLD_SIZE": str(ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    torch.set_num_threads(1)
    function(rank, *args)
