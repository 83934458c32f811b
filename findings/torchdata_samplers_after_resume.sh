#!/usr/bin/env bash
# torchdata 0.11.0: StatefulDataLoader, which is there to go on where it was, does so with `shuffle=True`. With one of torch's samplers
# (SubsetRandomSampler, as after a split into training and validation rows, WeightedRandomSampler, even RandomSampler) a new process
# draws another order and leaves out as many rows of it as were seen: rows come twice within the epoch, others not at all. Nothing is
# said. Only `shuffle=True` replaces torch's RandomSampler by torchdata's own, which keeps its state; a Subset with `shuffle=True` is right.
# Seen, 20 rows in batches of 3, two batches before the checkpoint: of the 14 rows after it 4 had come before with SubsetRandomSampler, 5
# with WeightedRandomSampler (without replacement) and RandomSampler, and as many were left out; 0 with `shuffle=True`.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "torchdata==0.11.0" "numpy==2.4.6"
cat > "$folder/try.py" <<'PYTHON'
import torch
from torch.utils.data import RandomSampler, Subset, SubsetRandomSampler, WeightedRandomSampler
from torchdata.stateful_dataloader import StatefulDataLoader

ROWS = list(range(20))
LOADERS = {
    "SubsetRandomSampler": lambda: {"sampler": SubsetRandomSampler(ROWS)},
    "WeightedRandomSampler": lambda: {"sampler": WeightedRandomSampler([1.0] * 20, 20, replacement=False)},
    "RandomSampler": lambda: {"sampler": RandomSampler(ROWS)},
    "shuffle=True": lambda: {"shuffle": True},
}


def make(name, seed):
    torch.manual_seed(seed)
    return StatefulDataLoader(Subset(ROWS, ROWS), batch_size=3, **LOADERS[name]())


def rows(batches):
    return [row for batch in batches for row in batch.tolist()]


again = {}
for name in LOADERS:
    loader = make(name, seed=0)
    batches = iter(loader)
    seen = rows(next(batches) for _ in range(2))
    state = loader.state_dict()
    resumed = make(name, seed=1)
    resumed.load_state_dict(state)
    after = rows(resumed)
    again[name] = len(set(seen) & set(after))
    left_out = len(set(ROWS) - set(seen) - set(after))
    print(f"{name}: {len(after)} rows after the resume, {again[name]} for the second time, {left_out} of the epoch left out")
assert again.pop("shuffle=True") == 0 and min(again.values()) > 0, "the behaviour has changed"
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/try.py"
