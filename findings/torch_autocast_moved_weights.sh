#!/usr/bin/env bash
# torch 2.13.0: within one autocast context a forward pass does not see that the weights have been moved since an earlier one,
# by an optimizer's step or in place: the copies in low precision are made once per context. Losses along a line, compared
# within a step under autocast, are then all equal. `torch.clear_autocast_cache()` in between is right.
# Seen: after the weights were set to zero the output is as before; 0.0 once the copies are dropped.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" numpy
cat > "$folder/try.py" <<'PYTHON'
import torch

torch.manual_seed(0)
layer, inputs = torch.nn.Linear(4, 4), torch.randn(2, 4)
with torch.autocast("cpu", dtype=torch.bfloat16):
    before = layer(inputs)
    with torch.no_grad():
        for p in layer.parameters():
            p.zero_()
    after = layer(inputs)
    torch.clear_autocast_cache()
    cleared = layer(inputs)
sizes = [output.abs().max().item() for output in (before, after, cleared)]
print(f"largest output {sizes[0]:.3f}; with all weights zero {sizes[1]:.3f}; copies dropped {sizes[2]:.3f}")
assert torch.equal(before, after) and sizes[0] > 0, "the behaviour has changed"
assert sizes[2] == 0, "the behaviour has changed"
PYTHON
"$folder/venv/bin/python" "$folder/try.py" "$folder"
