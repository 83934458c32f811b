#!/usr/bin/env bash
# torch 2.13.0: a group that joins a run during LinearLR's warm-up is multiplied by what the warm-up has still to grow, although it has
# joined at its full rate: it ends above the rate that it was given, by the factor that the warm-up lacked, and stays there.
# So do layers that are unfrozen early, in a group of their own, as in gradual unfreezing. LambdaLR refuses the same group
# (a ValueError about zip).
# Seen, a rate of 1e-3 and a warm-up of 100 steps from a hundredth: a group that joins with 1e-3 after 5 steps ends at 1.7e-2, after
# 20 steps at 4.8e-3; the first group at 1e-3.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "numpy==2.4.6"
cat > "$folder/try.py" <<'PYTHON'
import torch
from torch.optim.lr_scheduler import LambdaLR, LinearLR


def rates(make, joins_after):
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.ones(1))], lr=1e-3)
    schedule = make(optimizer)
    for step in range(150):
        if step == joins_after:
            optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(1))], "lr": 1e-3})
        optimizer.step()
        schedule.step()
    return [group["lr"] for group in optimizer.param_groups]


early, late = (rates(lambda optimizer: LinearLR(optimizer, 0.01, total_iters=100), after) for after in (5, 20))
for after, (first, joined) in ((5, early), (20, late)):
    print(f"joined after {after} steps: {joined:.1e}, the first group {first:.1e}")
assert abs(early[0] - 1e-3) < 1e-9 and abs(early[1] - 1.68e-2) < 1e-4, "the behaviour has changed"
assert abs(late[0] - 1e-3) < 1e-9 and abs(late[1] - 4.81e-3) < 1e-4, "the behaviour has changed"
try:
    rates(lambda optimizer: LambdaLR(optimizer, lambda step: min(1.0, 0.01 + step / 100)), 5)
except ValueError as error:
    print("LambdaLR:", error)
else:
    raise AssertionError("the behaviour has changed")
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/try.py" "$folder"
