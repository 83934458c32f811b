#!/usr/bin/env bash
# torch 2.13.0 with transformers 5.24.0: a new rate that is set before a new schedule is made has no effect on LambdaLR, which
# all schedules of transformers are, and CosineAnnealingWarmRestarts. They begin at `initial_lr`, which the first schedule on an
# optimizer leaves in its groups and no later one replaces; it comes along in a checkpoint, too. A second phase, or a run that
# goes on from an optimizer's state at a lower rate, trains at the rate of the first one. StepLR and CosineAnnealingLR begin at
# the new rate. To set `initial_lr` as well is right.
# Seen, a first phase at 1e-3, then 2e-5 set: the second phase begins at 1e-3 with the linear schedule of transformers, LambdaLR
# and CosineAnnealingWarmRestarts, also after `load_state_dict`, and at 2e-5 with StepLR and CosineAnnealingLR.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "transformers==5.24.0" "numpy==2.4.6"
cat > "$folder/try.py" <<'PYTHON'
import torch
from torch.optim import lr_scheduler
from transformers import get_linear_schedule_with_warmup


def first_phase():
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)
    schedule = get_linear_schedule_with_warmup(optimizer, num_warmup_steps=0, num_training_steps=10)
    for _ in range(10):
        optimizer.step()
        schedule.step()
    return optimizer


def loaded():
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=2e-5)
    optimizer.load_state_dict(first_phase().state_dict())
    return optimizer


def begins_at(optimizer, schedule):
    for group in optimizer.param_groups:
        group["lr"] = 2e-5
    schedule(optimizer)
    return optimizer.param_groups[0]["lr"]


schedules = {
    "transformers' linear": lambda optimizer: get_linear_schedule_with_warmup(optimizer, 0, 10),
    "LambdaLR": lambda optimizer: lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / 10),
    "CosineAnnealingWarmRestarts": lambda optimizer: lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=10),
    "StepLR": lambda optimizer: lr_scheduler.StepLR(optimizer, step_size=5),
    "CosineAnnealingLR": lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, T_max=10),
}
rates = {name: (begins_at(first_phase(), make), begins_at(loaded(), make)) for name, make in schedules.items()}
for name, (going_on, resumed) in rates.items():
    print(f"{name}: {going_on:.0e}, after load_state_dict {resumed:.0e}")
assert all(rates[name] == (1e-3, 1e-3) for name in list(schedules)[:3]), "the behaviour has changed"
assert all(rates[name] == (2e-5, 2e-5) for name in list(schedules)[3:]), "the behaviour has changed"
PYTHON
"$folder/venv/bin/python" "$folder/try.py"
