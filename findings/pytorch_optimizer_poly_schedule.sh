#!/usr/bin/env bash
# pytorch_optimizer 4.1.0: PolyScheduler does not fall from `max_lr` to `min_lr` after its warm-up, as a polynomial schedule does, but
# rises from there as the root of the steps, past `max_lr` and without an end: `t_max` is not used. A run of 1000 steps
# ends at 30 times the highest rate that was asked for. LinearScheduler and CosineScheduler, beside it, fall.
# Seen, max_lr 1e-4, min_lr 1e-6, t_max 1000, a warm-up of 100 steps: 1e-4 at step 101, 2.0e-3 at step 500, 3.0e-3 at step 1000; torch's
# PolynomialLR of the power 0.5 ends at 0, LinearScheduler and CosineScheduler at 1e-6.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "pytorch_optimizer==4.1.0" "numpy==2.4.6"
cat > "$folder/try.py" <<'PYTHON'
import warnings

import torch
from pytorch_optimizer import CosineScheduler, LinearScheduler, PolyScheduler
from torch.optim.lr_scheduler import PolynomialLR

warnings.simplefilter("ignore")
OPTIONS = {"t_max": 1000, "max_lr": 1e-4, "min_lr": 1e-6, "warmup_steps": 100}


def rates(make):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-4)
    schedule, found = make(optimizer), []
    for _ in range(1001):
        schedule.step()
        found.append(optimizer.param_groups[0]["lr"])
    return [found[step] for step in (100, 500, 1000)]


makes = {kind.__name__: lambda optimizer, kind=kind: kind(optimizer, **OPTIONS) for kind in (LinearScheduler, CosineScheduler)}
makes["PolyScheduler"] = lambda optimizer: PolyScheduler(optimizer, **OPTIONS)
makes["PolynomialLR"] = lambda optimizer: PolynomialLR(optimizer, total_iters=1000, power=0.5)
found = {name: rates(make) for name, make in makes.items()}
for name, each in found.items():
    print(name, ", ".join(f"{rate:.1e}" for rate in each))
first, middle, last = found["PolyScheduler"]
assert abs(first - 1e-4) < 1e-6 and 1.9e-3 < middle < 2.1e-3 and 2.9e-3 < last < 3.1e-3, "the behaviour has changed"
assert all(each[-1] < 1.1e-6 for name, each in found.items() if name != "PolyScheduler"), "the behaviour has changed"
PYTHON
"$folder/venv/bin/python" "$folder/try.py"
