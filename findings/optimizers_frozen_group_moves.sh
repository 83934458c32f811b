#!/usr/bin/env bash
# prodigyopt 1.1.2 and dadaptation 3.2: a parameter group at a rate of 0, the one rate besides the common one that they accept, is not frozen.
# The weight decay of Prodigy (decoupled by default) and of DAdaptAdam with `decouple=True` takes the common rate for every group:
# the frozen weights shrink as fast as the others, towards 0. DAdaptLion takes the common rate for its step as well, so that
# the frozen group trains like the others. Frozen encoders, and layers that wait for gradual unfreezing, change from the first step
# on. Without weight decay Prodigy and DAdaptAdam leave the group where it is.
# Seen, a frozen layer beside one that trains, after 200 steps: DAdaptLion has moved it by 8.6 of its norm, Prodigy and DAdaptAdam have
# taken 1.00 of it with a weight decay of 0.1, and nothing without; torch's AdamW nothing with either.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "prodigyopt==1.1.2" "dadaptation==3.2" "numpy==2.4.6"
cat > "$folder/try.py" <<'PYTHON'
from functools import partial

import torch
from dadaptation import DAdaptAdam, DAdaptLion
from prodigyopt import Prodigy

KINDS = {
    "AdamW": partial(torch.optim.AdamW, lr=1e-2),
    "Prodigy": Prodigy,
    "DAdaptAdam": partial(DAdaptAdam, decouple=True),
    "DAdaptLion": DAdaptLion,
}


def moved(kind, decay):
    torch.manual_seed(0)
    frozen, trained = torch.nn.Linear(8, 16), torch.nn.Linear(16, 1)
    start = frozen.weight.detach().clone()
    groups = [{"params": frozen.parameters(), "lr": 0.0}, {"params": trained.parameters()}]
    optimizer = kind(groups, weight_decay=decay)
    for _ in range(200):
        inputs = torch.randn(32, 8)
        loss = (trained(torch.tanh(frozen(inputs))) - inputs.sum(1, keepdim=True)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return ((frozen.weight - start).norm() / start.norm()).item()


found = {(name, decay): moved(kind, decay) for name, kind in KINDS.items() for decay in (0.0, 0.1)}
for (name, decay), share in found.items():
    print(f"{name}, weight decay {decay}: the group at a rate of 0 has moved by {share:.2f} of its norm")
assert found["AdamW", 0.0] == found["AdamW", 0.1] == found["Prodigy", 0.0] == found["DAdaptAdam", 0.0] == 0, "the behaviour has changed"
assert min(found["Prodigy", 0.1], found["DAdaptAdam", 0.1], found["DAdaptLion", 0.0]) > 0.5, "the behaviour has changed"
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/try.py" | grep -v "^Using decoupled"
