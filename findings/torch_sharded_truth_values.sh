#!/usr/bin/env bash
# torch 2.13.0: a number read off a sharded tensor (DTensor) is that of the own rank alone, although the tensor printed is a
# scalar of the whole: `.item()` of a norm or a sum, and the truth value of `isfinite(…).all()`. Ranks that branch on it
# take different ways without an error; `full_tensor()` first is right.
# Seen, on two ranks: norm of (1, 2, 3, 4): 2.236 and 5.0 in place of 5.477; all of (1, 2, 3, NaN) finite: True and False.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" numpy
cat > "$folder/try.py" <<'PYTHON'
import sys

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor


def run(rank, results):
    dist.init_process_group("gloo", init_method=f"file://{sys.argv[1]}/store", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    norm = distribute_tensor(torch.tensor([1.0, 2.0, 3.0, 4.0]), mesh, [Shard(0)]).norm()
    finite = torch.isfinite(distribute_tensor(torch.tensor([1.0, 2.0, 3.0, float("nan")]), mesh, [Shard(0)])).all()
    results[rank] = (round(norm.item(), 3), round(norm.full_tensor().item(), 3), bool(finite))
    dist.destroy_process_group()


if __name__ == "__main__":
    with mp.Manager() as manager:
        results = manager.dict()
        mp.start_processes(run, args=(results,), nprocs=2, start_method="fork")
        for rank in range(2):
            own, whole, finite = results[rank]
            print(f"rank {rank}: norm {own}, of the whole {whole}; all entries of the other tensor are finite: {finite}")
        assert dict(results) == {0: (2.236, 5.477, True), 1: (5.0, 5.477, False)}, "the behaviour has changed"
PYTHON
"$folder/venv/bin/python" "$folder/try.py" "$folder"
