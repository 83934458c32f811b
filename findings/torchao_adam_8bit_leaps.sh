#!/usr/bin/env bash
# torchao 0.18.0: `AdamW8bit` and `AdamWFp8` move some weights by thousands of learning rates in a step, where Adam moves by about one.
# State is rounded in blocks of 256 entries, to shares of the largest. Of an entry whose gradients are a thousandth of its
# block's largest the average of squares is a millionth and is rounded to 0, the average of gradients a thousandth and is kept:
# their quotient is divided by eps alone. `AdamW4bit` has no 0 for squares, and moves these weights too little. Nothing is NaN.
# Seen, a rate of 1e-3 and 20 steps, gradients of half the columns a thousandth of the others': the weights of those columns have gone
# 0.016 at most with torch's AdamW, 41 with AdamW8bit, 34 with AdamWFp8 and 0.001 with AdamW4bit; at a hundredth 2.1 with
# AdamWFp8, and 0.02 with AdamW8bit. Needs a C++ compiler: the optimizers are compiled.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "torchao==0.18.0" "numpy==2.4.6"
cat > "$folder/try.py" <<'PYTHON'
import torch
from torchao.optim import AdamW4bit, AdamW8bit, AdamWFp8


def farthest(kind, share):
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.zeros(64, 256))
    optimizer = kind([weight], lr=1e-3, weight_decay=0.0)
    scale = torch.ones(256)
    scale[::2] = share
    for _ in range(20):
        weight.grad = torch.randn(64, 256) * scale
        optimizer.step()
    moved = weight.detach().abs()
    return moved[:, ::2].max().item(), moved[:, 1::2].max().item()


found = {}
for share in (0.01, 0.001):
    for kind in (torch.optim.AdamW, AdamW4bit, AdamW8bit, AdamWFp8):
        small, large = farthest(kind, share)
        found[share, kind.__name__] = small
        print(f"gradients {share} as large, {kind.__name__}: {small:.3f} at most; the others {large:.3f}", flush=True)
        assert large < 0.025, "the behaviour has changed"
assert all(found[share, "AdamW"] < 0.02 for share in (0.01, 0.001)), "the behaviour has changed"
assert found[0.001, "AdamW8bit"] > 1 and found[0.001, "AdamWFp8"] > 1 and found[0.01, "AdamWFp8"] > 0.5, "the behaviour has changed"
assert found[0.001, "AdamW4bit"] < 0.005, "the behaviour has changed"
PYTHON
TORCHINDUCTOR_CACHE_DIR="$folder/cache" "$folder/venv/bin/python" -W ignore "$folder/try.py" 2> "$folder/errors" || { cat "$folder/errors"; exit 1; }
