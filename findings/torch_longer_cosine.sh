#!/usr/bin/env bash
# torch 2.13.0: a run that is resumed to be longer ends at its highest rate. `load_state_dict` of a schedule puts the
# checkpoint's own length (`T_max` of CosineAnnealingLR) in the place of the one it was made with, and a cosine that goes on
# beyond `T_max` rises again: weights that were annealed are trained at the full rate up to the last step. Nothing is said. To
# set `T_max` afterwards leaves the rate at 0, since each rate is computed from the one before. LambdaLR, whose function is not
# saved, takes the new length.
# Seen, 100 of 100 steps, then 100 more with the length 200: the rate is 0 at the resume, half the highest after 50 steps and
# the highest at the end; with `T_max` set afterwards it stays 0; with the same cosine as a LambdaLR it goes from 0.49 of the
# highest to 0.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "numpy==2.4.6"
cat > "$folder/try.py" <<'PYTHON'
import math

import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR


def cosine(optimizer, length):
    return CosineAnnealingLR(optimizer, T_max=length)


def as_lambda(optimizer, length):
    return LambdaLR(optimizer, lambda step: (1 + math.cos(math.pi * step / length)) / 2)


def resumed(schedule_of, correct=False):
    """Return the rates of steps 101 to 200 of a run that was planned, and saved, with 100 steps."""
    rates, states = [], None
    for length in (100, 200):
        optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        schedule = schedule_of(optimizer, length)
        if states is not None:
            optimizer.load_state_dict(states[0])
            schedule.load_state_dict(states[1])
            if correct:
                schedule.T_max = length
        rates.clear()
        for _ in range(100):
            optimizer.step()
            schedule.step()
            rates.append(optimizer.param_groups[0]["lr"])
        states = optimizer.state_dict(), schedule.state_dict()
    return rates


found = {
    "CosineAnnealingLR": resumed(cosine),
    "its T_max set afterwards": resumed(cosine, correct=True),
    "the same as LambdaLR": resumed(as_lambda),
}
for name, rates in found.items():
    print(f"{name}: {rates[0]:.3f} at first, {rates[49]:.3f} after 50 steps, {rates[-1]:.3f} at the end")
rising, still, right = found.values()
assert rising[0] < 0.01 and rising[-1] > 0.99, "the behaviour has changed"
assert max(still) < 1e-9, "the behaviour has changed"
assert right[0] > 0.45 and right[-1] < 1e-6, "the behaviour has changed"
PYTHON
"$folder/venv/bin/python" "$folder/try.py"
