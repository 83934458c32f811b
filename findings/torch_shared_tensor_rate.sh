#!/usr/bin/env bash
# torch 2.13.0: with the rate as a tensor (`lr=torch.tensor(1e-3)`, as torch's recipe for a compiled step has it), all groups
# without a rate of their own hold one and the same tensor. A schedule that sets group after group in place sets it several
# times: ReduceLROnPlateau multiplies it by its factor once for every group (two are common: with and without weight decay),
# and of LambdaLR's functions the last one holds for all groups.
# Seen, two groups, rate 0.1: at the first plateau 0.01 with a float and 0.001 with a tensor; LambdaLR with factors 1 and 0.5
# gives 0.1 and 0.05 with a float, 0.05 and 0.05 with a tensor.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "numpy==2.4.6"
cat > "$folder/try.py" <<'PYTHON'
import torch
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau


def two_groups(rate):
    matrix, bias = torch.nn.Parameter(torch.ones(2, 2)), torch.nn.Parameter(torch.ones(2))
    return torch.optim.AdamW([{"params": [matrix], "weight_decay": 0.1}, {"params": [bias], "weight_decay": 0.0}], lr=rate)


def rates(optimizer):
    return [round(float(group["lr"]), 6) for group in optimizer.param_groups]


found = {}
for kind, make in (("float", lambda: 0.1), ("tensor", lambda: torch.tensor(0.1))):
    optimizer = two_groups(make())
    plateau = ReduceLROnPlateau(optimizer, factor=0.1, patience=2)
    for _ in range(4):  # the best, and three that are no better
        plateau.step(1.0)
    found[kind, "plateau"] = rates(optimizer)
    optimizer = two_groups(make())
    LambdaLR(optimizer, [lambda step: 1.0, lambda step: 0.5])
    found[kind, "functions"] = rates(optimizer)
    print(f"{kind}: {found[kind, 'plateau']} at the first plateau, {found[kind, 'functions']} with a function for each group")
assert found["float", "plateau"] == [0.01, 0.01] and found["float", "functions"] == [0.1, 0.05], "the behaviour has changed"
assert found["tensor", "plateau"] == [0.001, 0.001], "the behaviour has changed"
assert found["tensor", "functions"] == [0.05, 0.05], "the behaviour has changed"
PYTHON
"$folder/venv/bin/python" "$folder/try.py"
