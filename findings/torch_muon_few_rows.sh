#!/usr/bin/env bash
# torch 2.13.0: Muon rounds a gradient to bfloat16 before it makes its singular values alike. The rounding errors have all directions,
# and the iteration raises them as it raises every small singular value. A gradient of low rank, which a batch of few rows
# gives a layer that sees one vector of each row (a pooler, a classifier), makes a step of which much lies in directions
# that the batch says nothing about. The same five iterations in float32 stay in the gradient's directions.
# Seen, a matrix of 768 x 768, share of the step's squared norm outside of the gradient's directions: 0.73 with one row in the
# batch, 0.36 with 4, 0.17 with 16; in float32 0.00 each time.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "numpy==2.4.6"
cat > "$folder/try.py" <<'PYTHON'
import torch
from torch import nn

SIZE = 768


def step_of_muon(gradient):
    weight = nn.Parameter(torch.zeros(SIZE, SIZE))
    optimizer = torch.optim.Muon([weight], lr=1.0, weight_decay=0.0)
    weight.grad = gradient
    optimizer.step()
    return weight.detach()


def step_in_float32(gradient):
    a, b, c = 3.4445, -4.7750, 2.0315
    step = gradient / gradient.norm()
    for _ in range(5):
        gram = step @ step.T
        step = a * step + (b * gram + c * gram @ gram) @ step
    return -step


def share_outside(step, directions):
    basis = torch.linalg.qr(directions).Q
    return ((step - basis @ (basis.T @ step)).square().sum() / step.square().sum()).item()


for rank, seen in ((1, 0.73), (4, 0.37), (16, 0.16)):
    torch.manual_seed(0)
    outputs, inputs = torch.randn(SIZE, rank), torch.randn(rank, SIZE)
    gradient = outputs @ inputs / SIZE
    muon, exact = share_outside(step_of_muon(gradient), outputs), share_outside(step_in_float32(gradient), outputs)
    print(f"gradient of rank {rank}: {muon:.2f} of Muon's step outside of its directions, {exact:.2f} in float32")
    assert abs(muon - seen) < 0.1 and exact < 0.001, "the behaviour has changed"
PYTHON
"$folder/venv/bin/python" "$folder/try.py"
