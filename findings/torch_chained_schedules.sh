#!/usr/bin/env bash
# torch 2.13.0: ChainedScheduler of a warm-up (LinearLR) and a schedule that computes its rates anew from the first one, as
# CosineAnnealingWarmRestarts and LambdaLR do (of which most of transformers' schedules are made), does not multiply the two. The
# warm-up is undone in every step if it comes first. If it comes last, it multiplies the other's rate by its own growth of one step:
# the second rate is many times the first and above the highest that was asked for. Nothing is said. With
# ExponentialLR or CosineAnnealingLR, which go on from the rate in force, the chain is their product.
# Seen, rate 1, a warm-up from a hundredth in five steps, the first three rates: warm restarts after it 1, 0.96 and 0.85; warm
# restarts before it 0.01, 20.01 and 1.67; the product is 0.01, 0.20 and 0.35. ExponentialLR has the product in either order.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "numpy==2.4.6"
cat > "$folder/try.py" <<'PYTHON'
import warnings

import torch
from torch.optim.lr_scheduler import (
    ChainedScheduler,
    CosineAnnealingWarmRestarts,
    ExponentialLR,
    LambdaLR,
    LinearLR,
)

warnings.simplefilter("error")


def rates(*makes, steps=8):
    weights = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weights], lr=1.0)
    schedule = ChainedScheduler([make(optimizer) for make in makes])
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        weights.grad = torch.zeros(1)
        optimizer.step()
        schedule.step()
    return found


def warmup(optimizer):
    return LinearLR(optimizer, start_factor=0.01, total_iters=5)


OTHERS = {
    "CosineAnnealingWarmRestarts": lambda optimizer: CosineAnnealingWarmRestarts(optimizer, 8),
    "LambdaLR": lambda optimizer: LambdaLR(optimizer, lambda step: 1 - step / 8),
    "ExponentialLR": lambda optimizer: ExponentialLR(optimizer, 0.9),
}
for name, other in OTHERS.items():
    product = [first * second for first, second in zip(rates(warmup), rates(other))]
    warmup_first, warmup_last = rates(warmup, other), rates(other, warmup)
    for order, found in (("product", product), ("warm-up first", warmup_first), ("warm-up last", warmup_last)):
        print(f"{name}, {order}: {[round(rate, 2) for rate in found]}")
    same = [max(abs(a - b) for a, b in zip(product, found)) < 1e-6 for found in (warmup_first, warmup_last)]
    assert same == [name == "ExponentialLR"] * 2, "the behaviour has changed"
    if name != "ExponentialLR":
        assert warmup_first[0] == 1 and max(warmup_last) > 10, "the behaviour has changed"
PYTHON
"$folder/venv/bin/python" "$folder/try.py"
