#!/usr/bin/env bash
# torch 2.13.0: an optimizer that was made from `named_parameters()` keeps the names and saves them, and `load_state_dict` does not read
# them. State goes to parameters by their place: where the same groups were filled in another order, or another layer was
# frozen, weights of the same shape continue with each other's averages, and nothing is said. The names of the checkpoint even
# take the place of the optimizer's own, so that they are wrong from then on.
# Seen, Adam over `first` with gradients of 1 and `last` with gradients of -1, loaded into an Adam over the same two in the other
# order: `last` has an average of 0.1 and is called `first`; its next step, of a gradient of -1, goes the wrong way at first.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "numpy==2.4.6"
cat > "$folder/try.py" <<'PYTHON'
import torch
from torch import nn

GRADIENTS = {"first": 1.0, "last": -1.0}


def trained(order, state=None, steps=10):
    """Return the optimizer and its parameters by name after steps on constant gradients."""
    weights = {name: nn.Parameter(torch.zeros(2, 2)) for name in order}
    optimizer = torch.optim.Adam([(name, weights[name]) for name in order], lr=1e-3)
    if state is not None:
        optimizer.load_state_dict(state)
    for _ in range(steps):
        for name, weight in weights.items():
            weight.grad = torch.full_like(weight, GRADIENTS[name])
        optimizer.step()
    return optimizer, weights


state = trained(["first", "last"])[0].state_dict()
print("saved names:", state["param_groups"][0]["param_names"])
moves = {}
for order in (["first", "last"], ["last", "first"]):
    optimizer, weights = trained(order, state, steps=1)
    moves[order[0]] = {name: round(weight.mean().item(), 5) for name, weight in sorted(weights.items())}
    print(f"order {order}: the next step moves {moves[order[0]]}, names in the optimizer: {optimizer.param_groups[0]['param_names']}")
assert moves["first"] == {"first": -1e-3, "last": 1e-3}, "the behaviour has changed"
assert moves["last"]["first"] > 0 > moves["last"]["last"], "the behaviour has changed"
assert optimizer.param_groups[0]["param_names"] == ["first", "last"], "the behaviour has changed"
PYTHON
"$folder/venv/bin/python" "$folder/try.py"
