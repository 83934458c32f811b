#!/usr/bin/env bash
# torch 2.13.0: torch.optim.Adafactor moves what starts at zero a thousand times less than its rate says: LoRA's B, biases, a
# head or an adapter that starts at zero. Its step is the rate times the root mean square of a parameter, of which it takes at
# least 1e-3 (`eps[1]`), and it has no switch for that (transformers' Adafactor has one, `scale_parameter`).
# Seen, rate 1e-2, a matrix B that starts at zero or at a standard deviation of 0.02 in LoRA's product: the first step is 1e-5
# or 2e-4 under Adafactor and 1e-2 under AdamW; after 300 steps the loss is 0.49 or 0.09 under Adafactor and 0.01 under AdamW.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "numpy==2.4.6"
cat > "$folder/try.py" <<'PYTHON'
import torch
from torch.nn import functional

torch.manual_seed(0)
inputs = torch.randn(256, 32)
labels = (inputs @ torch.randn(32, 1) > 0).float()


def train(kind, deviation):
    """Return the first step's largest move of B and the loss after 300 steps."""
    torch.manual_seed(1)
    down = torch.nn.Parameter(torch.randn(8, 32) / 32**0.5)
    up = torch.nn.Parameter(deviation * torch.randn(1, 8))
    start = up.detach().clone()
    optimizer = kind([down, up], lr=1e-2, weight_decay=0.0)
    for step in range(300):
        optimizer.zero_grad()
        loss = functional.binary_cross_entropy_with_logits(inputs @ down.T @ up.T, labels)
        loss.backward()
        optimizer.step()
        if step == 0:
            moved = (up.detach() - start).abs().max().item()
    return moved, loss.item()


found = {}
for kind in (torch.optim.Adafactor, torch.optim.AdamW):
    for deviation in (0.0, 0.02):
        moved, loss = found[kind.__name__, deviation] = train(kind, deviation)
        print(f"{kind.__name__}, standard deviation of B {deviation}: first step {moved:.1e}, loss {loss:.3f}")
assert found["Adafactor", 0.0][0] < 1.1e-5 and found["AdamW", 0.0][0] > 9e-3, "the behaviour has changed"
assert found["Adafactor", 0.0][1] > 0.4 and found["AdamW", 0.0][1] < 0.05, "the behaviour has changed"
PYTHON
"$folder/venv/bin/python" "$folder/try.py"
