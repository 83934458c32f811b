#!/usr/bin/env bash
# schedulefree 1.4.1: parameters that join a run in progress (`add_param_group`, as gradual unfreezing does) are evaluated at
# their training weights: the new group says that it is in evaluation mode, so that `eval()` leaves it as it is. `train()`
# before the next step would put that right, but nothing asks for it: steps go on without an error.
# Seen: `eval()` moves the first group by 0.00708, the added one by 0.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "schedulefree==1.4.1"
cat > "$folder/try.py" <<'PYTHON'
import schedulefree
import torch

torch.manual_seed(0)
first, added = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
optimizer = schedulefree.AdamWScheduleFree([first], lr=0.1)
optimizer.train()
for step in range(6):
    if step == 1:
        optimizer.add_param_group({"params": [added]})
    for p in (first, added):
        p.grad = torch.randn(3)
    optimizer.step()
trained = [p.detach().clone() for p in (first, added)]
optimizer.eval()
moves = [(p - before).abs().max().item() for p, before in zip((first, added), trained)]
print(f"eval() moves the first group by {moves[0]:.3g}, the added one by {moves[1]:.3g}; the added one was trained "
      f"by {(trained[1] - 1).abs().max().item():.3g}")
assert moves[0] > 0 and moves[1] == 0, "the behaviour has changed"
PYTHON
"$folder/venv/bin/python" "$folder/try.py" "$folder"
