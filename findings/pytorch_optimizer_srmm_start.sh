#!/usr/bin/env bash
# pytorch_optimizer 4.1.0: the first step of SRMM takes 29 % off all weights, whatever the learning rate: it keeps an average of the
# weights, which begins with zeros, and each step starts from it. A pretrained model is another one after a step,
# and a warm-up does not help.
# Seen, a rate of 1e-9 and gradients of 1: weights of 1 are 0.7071 after one step and after 200; with AdamW 1.0.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "pytorch_optimizer==4.1.0" numpy
cat > "$folder/try.py" <<'PYTHON'
import torch
from pytorch_optimizer import SRMM


def weight_after_steps(make):
    weights = torch.nn.Parameter(torch.ones(3))
    optimizer = make([weights], lr=1e-9)
    after = {}
    for step in range(1, 201):
        weights.grad = torch.ones(3)
        optimizer.step()
        after[step] = round(weights[0].item(), 4)
    return after[1], after[200]


found = {make.__name__: weight_after_steps(make) for make in (SRMM, torch.optim.AdamW)}
print("weights after the first and the 200th step:", found)
assert found == {"SRMM": (0.7071, 0.7071), "AdamW": (1.0, 1.0)}, "the behaviour has changed"
PYTHON
"$folder/venv/bin/python" "$folder/try.py"
