#!/usr/bin/env bash
# torch-optimizer 0.3.0: parameters that join a run in progress (`add_param_group`, as gradual unfreezing does) are never moved by
# AdaBound, without an error: it walks the groups together with a list of their first learning rates, which has no entry for a
# new one. (AdaBound of pytorch_optimizer 4.1.0 raises IndexError there.)
# Seen: the first group moves by 0.0041, the added one by 0 in five steps.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" numpy
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps "torch-optimizer==0.3.0" "pytorch-ranger==0.1.1"
cat > "$folder/try.py" <<'PYTHON'
import torch
import torch_optimizer

torch.manual_seed(0)
first, added = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
optimizer = torch_optimizer.AdaBound([first])
optimizer.add_param_group({"params": [added]})
for _ in range(5):
    for p in (first, added):
        p.grad = torch.randn(3)
    optimizer.step()
moves = [(p - 1).abs().max().item() for p in (first, added)]
print(f"the first group moves by {moves[0]:.2g}, the added one by {moves[1]:.2g}")
assert moves[0] > 0 and moves[1] == 0, "the behaviour has changed"
PYTHON
"$folder/venv/bin/python" "$folder/try.py" "$folder"
