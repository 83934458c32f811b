#!/usr/bin/env bash
# accelerate 1.15.0: `load_state` and `skip_first_batches`, the documented way to go on within an epoch, repeat rows and leave
# others out by default. The generators come back as they were when the state was saved, which is after the order of the
# interrupted epoch was drawn; so another order is drawn, and the batches skipped are not those that were seen.
# `use_seedable_sampler=True` keeps the order.
# Seen: an epoch of rows 2 0 5 | 3 1 4 7 6, interrupted at the bar, goes on with 1 6 2 5 4.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "accelerate==1.15.0"
cat > "$folder/try.py" <<'PYTHON'
import sys

import torch
from accelerate import Accelerator, skip_first_batches
from accelerate.utils import DataLoaderConfiguration, set_seed

left_out = {}


def prepared(seedable):
    accelerator = Accelerator(cpu=True, dataloader_config=DataLoaderConfiguration(use_seedable_sampler=seedable))
    set_seed(0)
    loader = torch.utils.data.DataLoader(torch.arange(8.0), batch_size=1, shuffle=True)
    return accelerator, accelerator.prepare(loader)


for seedable in (False, True):
    folder = f"{sys.argv[1]}/{seedable}"
    accelerator, loader = prepared(seedable)
    epoch = []
    for index, batch in enumerate(loader):
        epoch.append(int(batch))
        if index == 2:
            accelerator.save_state(folder)
    accelerator, loader = prepared(seedable)
    accelerator.load_state(folder)
    rest = [int(batch) for batch in skip_first_batches(loader, 3)]
    print(f"use_seedable_sampler={seedable}: {epoch[:3]} and {epoch[3:]}; resumed {rest}")
    left_out[seedable] = set(range(8)) - set(epoch[:3]) - set(rest)
assert left_out[False] and not left_out[True], "the behaviour has changed"
PYTHON
"$folder/venv/bin/python" "$folder/try.py" "$folder"
