#!/usr/bin/env bash
# torch 2.13.0: a phase at a constant rate and OneCycleLR after it, put together by SequentialLR, as for a head that is trained before the
# rest is unfrozen: the first phase does not have the rate that the optimizer was given. OneCycleLR, when it is made, writes its own
# lowest start, `max_lr / div_factor`, over what the optimizer keeps as the initial rate, and SequentialLR puts every group back to that.
# A warm-up in the place of the constant phase warms up to it. Nothing is said. With CosineAnnealingLR and the other schedules
# as the second phase the first one has its rate.
# Seen, AdamW at 1e-3, four steps of a first phase, then OneCycleLR up to 5e-5: 2e-6 in all four, a five-hundredth, and a warm-up that
# ends there; with CosineAnnealingLR 1e-3.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "numpy==2.4.6"
cat > "$folder/try.py" <<'PYTHON'
import warnings

import torch
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LinearLR, OneCycleLR, SequentialLR

warnings.simplefilter("error")


def rates(first, second, steps=20):
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.AdamW([weight], lr=1e-3)
    schedule = SequentialLR(optimizer, [first(optimizer), second(optimizer)], milestones=[4])
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        weight.grad = torch.ones(1)
        optimizer.step()
        schedule.step()
    return found


def one_cycle(optimizer):
    return OneCycleLR(optimizer, max_lr=5e-5, total_steps=20)


def cosine(optimizer):
    return CosineAnnealingLR(optimizer, T_max=16)


def constant(optimizer):
    return ConstantLR(optimizer, factor=1.0, total_iters=4)


def warmup(optimizer):
    return LinearLR(optimizer, start_factor=0.1, total_iters=4)


found = {}
for first in (constant, warmup):
    for second in (one_cycle, cosine):
        found[first, second] = rates(first, second)
        print(f"{first.__name__}, then {second.__name__}: {[f'{rate:.1e}' for rate in found[first, second][:6]]}")
assert all(abs(rate - 1e-3) < 1e-9 for rate in found[constant, cosine][:4]), "the setting has changed"
assert abs(max(found[constant, one_cycle]) - 5e-5) < 1e-6, "the setting has changed"
assert all(abs(rate - 2e-6) < 1e-9 for rate in found[constant, one_cycle][:4]), "the behaviour has changed"
assert max(found[warmup, one_cycle][:4]) < 2e-6 < 5e-4 < max(found[warmup, cosine][:4]), "the behaviour has changed"
PYTHON
"$folder/venv/bin/python" "$folder/try.py"
