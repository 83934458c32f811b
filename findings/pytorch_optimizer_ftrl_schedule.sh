#!/usr/bin/env bash
# pytorch_optimizer 4.1.0: under a schedule FTRL does not take smaller steps but makes the weights themselves smaller. It
# computes them anew in each step, as a sum over all steps times the rate in force, and that sum holds the weights that it
# began with, divided by the rate of then. The weights of a pretrained model fall with its rate. A rate of 0, where
# transformers' warm-ups begin, makes them NaN.
# Seen, ten steps from weights of 1, rate 1e-3: mean weight 1.0 at a constant rate, 0.018 where it falls to a hundredth, NaN
# where it begins at 0; with SGD 1.0 each time.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "pytorch_optimizer==4.1.0" numpy
cat > "$folder/try.py" <<'PYTHON'
import math

import torch
from pytorch_optimizer import FTRL
from torch.optim.lr_scheduler import LambdaLR


def mean_weight(make, factor_at):
    torch.manual_seed(0)
    weights = torch.nn.Parameter(torch.ones(100))
    optimizer = make([weights], lr=1e-3)
    schedule = LambdaLR(optimizer, factor_at)
    for _ in range(10):
        weights.grad = 1e-3 * torch.randn(100)
        optimizer.step()
        schedule.step()
    return round(weights.mean().item(), 3)


schedules = {
    "constant": lambda step: 1.0,
    "falling": lambda step: 1.0 - 0.11 * step,
    "from zero": lambda step: step / 9,
}
found = {name: [mean_weight(make, each) for make in (FTRL, torch.optim.SGD)] for name, each in schedules.items()}
print("mean weight after ten steps of FTRL and of SGD:", found)
assert all(sgd == 1 for _, sgd in found.values()), "the behaviour has changed"
assert found["constant"][0] > 0.99 and found["falling"][0] < 0.05, "the behaviour has changed"
assert math.isnan(found["from zero"][0]), "the behaviour has changed"
PYTHON
"$folder/venv/bin/python" "$folder/try.py"
