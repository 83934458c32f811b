#!/usr/bin/env bash
# pytorch_optimizer 4.1.0 and dadaptation 3.2: Gravity, ASGD and DAdaptSGD divide by the learning rate, so that a schedule which begins
# at 0, as transformers' warm-ups do, ends a run in its first step with a ZeroDivisionError that names neither the rate
# nor the optimizer. Prodigy and torch's AdamW, beside them, stay where they are for that step.
# Seen: "float division by zero" from the three; a move of 0 from the other two.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    "torch==2.13.0" "pytorch_optimizer==4.1.0" "dadaptation==3.2" "prodigyopt==1.1.2" "setuptools==84.2.1" numpy
cat > "$folder/try.py" <<'PYTHON'
import torch
from dadaptation import DAdaptSGD
from prodigyopt import Prodigy
from pytorch_optimizer import ASGD, Gravity
from torch.optim.lr_scheduler import LambdaLR


def first_step(make):
    weights = torch.nn.Parameter(torch.ones(3))
    optimizer = make([weights], lr=1.0)
    LambdaLR(optimizer, lambda step: step / 10)
    weights.grad = torch.ones(3)
    try:
        optimizer.step()
    except ZeroDivisionError as error:
        return str(error)
    return (weights - 1).abs().max().item()


found = {make.__name__: first_step(make) for make in (Gravity, ASGD, DAdaptSGD, Prodigy, torch.optim.AdamW)}
print(found)
assert list(found.values()) == 3 * ["float division by zero"] + 2 * [0.0], "the behaviour has changed"
PYTHON
"$folder/venv/bin/python" "$folder/try.py"
