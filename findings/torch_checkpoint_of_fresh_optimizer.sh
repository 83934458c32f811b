#!/usr/bin/env bash
# torch 2.13.0: `torch.distributed.checkpoint.load` fills in what is there, and a fresh optimizer's `state_dict()` has no state. A
# run that resumes by `load({"model": …, "optimizer": optimizer.state_dict()}, …)` gets its weights back, and none of Adam's
# averages, without a word: what the file holds and the dict does not is left out, and only the opposite is an error.
# `get_optimizer_state_dict`, which torch has for this, makes the state first, by a step with gradients of 0 and a rate of 0.
# Where nothing is loaded after that (a checkpoint at the start of a run), this step stays counted, and the first real one
# is corrected for two.
# Seen, AdamW: 0 of 2 states after `load`, 2 of 2 with `get_optimizer_state_dict`; a run's first step is 0.74 times as long after
# a checkpoint at its start.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "numpy==2.4.6"
cat > "$folder/try.py" <<'PYTHON'
import sys

import torch
from torch.distributed import checkpoint
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict


def made():
    torch.manual_seed(0)
    layer = torch.nn.Linear(4, 1)
    return layer, torch.optim.AdamW(layer.parameters(), lr=0.01, weight_decay=0.0)


def step(layer, optimizer):
    optimizer.zero_grad()
    layer(torch.ones(2, 4)).sum().backward()
    optimizer.step()


layer, optimizer = made()
for _ in range(3):
    step(layer, optimizer)
checkpoint.save({"model": layer.state_dict(), "optimizer": optimizer.state_dict()}, checkpoint_id=f"{sys.argv[1]}/plain")
checkpoint.save({"optimizer": get_optimizer_state_dict(layer, optimizer)}, checkpoint_id=f"{sys.argv[1]}/made")

resumed, fresh = made()
state = {"model": resumed.state_dict(), "optimizer": fresh.state_dict()}
checkpoint.load(state, checkpoint_id=f"{sys.argv[1]}/plain")
resumed.load_state_dict(state["model"])
fresh.load_state_dict(state["optimizer"])
assert torch.equal(resumed.weight, layer.weight)

other, second = made()
state = {"optimizer": get_optimizer_state_dict(other, second)}
checkpoint.load(state, checkpoint_id=f"{sys.argv[1]}/made")
set_optimizer_state_dict(other, second, state["optimizer"])
print(f"AdamW's states after load: {len(fresh.state)} of 2; with get_optimizer_state_dict: {len(second.state)} of 2")
assert len(fresh.state) == 0 and second.state[other.weight]["step"] == 3, "the behaviour has changed"


def first_step(saved_before):
    layer, optimizer = made()
    if saved_before:
        get_optimizer_state_dict(layer, optimizer)
    start = layer.weight.detach().clone()
    step(layer, optimizer)
    return float((layer.weight.detach() - start).abs().mean())


ratio = first_step(True) / first_step(False)
print(f"a run's first step after a checkpoint at its start: {ratio:.3f} times as long")
assert abs(ratio - 0.744) < 0.01, "the behaviour has changed"
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/try.py" "$folder"
