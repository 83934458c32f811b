#!/usr/bin/env bash
# pytorch_optimizer 4.1.0: a parameter that has no gradient at first, as a frozen layer that is unfrozen later, does not begin
# as in a fresh optimizer. Steps are counted per group, so that its averages, which start at 0, are taken for long
# ones and are not corrected: Adam's numerator and denominator are then too small by different amounts. torch counts them per
# parameter. (A group that is added later, by `add_param_group`, begins with its own count.)
# Seen, a parameter unfrozen after 1000 steps, its way in the next 40 beside that in a fresh optimizer's first 40: 1.0 times
# with torch's AdamW; 4.6 with AdamP and AdaBelief, 9.6 with LaProp, 21 with AdaBound, 39 with RAdam; more than twice for
# 37 of the 113 that step without further arguments.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "pytorch_optimizer==4.1.0" "numpy==2.4.6"
cat > "$folder/try.py" <<'PYTHON'
import inspect
import warnings

import torch
from pytorch_optimizer import get_supported_optimizers, load_optimizer

warnings.simplefilter("ignore")


def way(kind, frozen_steps):
    torch.manual_seed(0)
    first, late = (torch.nn.Parameter(torch.randn(8, 8)) for _ in range(2))
    rate = {"lr": 1e-3} if "lr" in inspect.signature(kind).parameters else {}
    optimizer = kind([first, late], **rate)
    if hasattr(optimizer, "train"):
        optimizer.train()
    start, random, others = late.detach().clone(), torch.Generator().manual_seed(1), torch.Generator().manual_seed(2)
    for step in range(frozen_steps + 40):
        first.grad = torch.randn(8, 8, generator=others)
        late.grad = torch.randn(8, 8, generator=random) + 1.0 if step >= frozen_steps else None
        optimizer.step(lambda: torch.tensor(1.0))
    return (late.detach() - start).norm().item()


def ratio(kind):
    return way(kind, 1000) / way(kind, 0)


ratios = {}
for name in get_supported_optimizers():
    try:
        ratios[name] = ratio(load_optimizer(name))
    except Exception:  # it needs further arguments, another closure or matrices alone
        continue
torchs = ratio(torch.optim.AdamW)
far = sum(each > 2 for each in ratios.values())
named = {name: round(ratios[name], 1) for name in ("adamp", "adabelief", "laprop", "adabound", "radam")}
print(f"torch's AdamW {torchs:.3f} times, {named}; more than twice for {far} of {len(ratios)}")
assert abs(torchs - 1) < 1e-3, "the behaviour has changed"
assert all(each > 4 for each in named.values()) and far > 30, "the behaviour has changed"
PYTHON
"$folder/venv/bin/python" "$folder/try.py"
