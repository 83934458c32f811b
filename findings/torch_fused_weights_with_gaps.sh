#!/usr/bin/env bash
# torch 2.13.0, on a CPU: with `fused=True` SGD, Adam, AdamW and Adagrad go over a parameter's memory as if it had no gaps.
# Of one that is a view of some columns of a wider matrix (`nn.Parameter(wide[:, :4])`, as when a layer is made
# narrower) some entries are never moved, others by the gradient of another entry, and the wider matrix's other columns move.
# Seen, 4 of 8 columns, a gradient of ones: only half of the entries have moved; without `fused=True` all of them.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "numpy==2.4.6"
cat > "$folder/try.py" <<'PYTHON'
import torch

for kind in (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.Adagrad):
    moved = {}
    for fused in (False, True):
        wide = torch.zeros(4, 8)
        weight = torch.nn.Parameter(wide[:, :4])
        optimizer = kind([weight], lr=0.1, fused=fused)
        weight.sum().backward()
        optimizer.step()
        moved[fused] = int((weight != 0).sum()), int((wide[:, 4:] != 0).sum())
        print(f"{kind.__name__}, fused={fused}: {moved[fused][0]} of 16 weights moved, and {moved[fused][1]} numbers beside them")
    assert moved[False] == (16, 0), "the behaviour has changed"
    assert moved[True] == (8, 8), "the behaviour has changed"
PYTHON
"$folder/venv/bin/python" "$folder/try.py"
