#!/usr/bin/env bash
# transformers 5.23.0: the schedule `greedy` (GreedyLR), which lowers the rate where a metric gets worse and raises it where
# it improves, has a least rate of 1e-3 unless told otherwise. Below that, where the rates of fine-tuning are, it never
# lowers a rate, however much worse the metric gets, and still raises it.
# Seen, rate 2e-5, patience 1: after 20 losses each worse than the one before 2e-5, with `min_lr` 1e-7 1.26e-5; after 20 each
# better than the one before 3.34e-5 in both.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "transformers==5.23.0" "numpy==2.4.6"
cat > "$folder/try.py" <<'PYTHON'
import torch
from transformers import get_scheduler

WORSE = [0.5 + 0.1 * step for step in range(20)]
BETTER = [0.5 / (1 + step) for step in range(20)]


def rate_after(losses, **options):
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.ones(2))], lr=2e-5)
    schedule = get_scheduler("greedy", optimizer, scheduler_specific_kwargs={"patience": 1, **options})
    for loss in losses:
        schedule.step(loss)
    return float(f"{optimizer.param_groups[0]['lr']:.3g}")


found = {}
for name, options in (("as it comes", {}), ("min_lr 1e-7", {"min_lr": 1e-7})):
    found[name] = rate_after(WORSE, **options), rate_after(BETTER, **options)
    print(f"{name}: from 2e-5 to {found[name][0]} while the loss rises, to {found[name][1]} while it falls")
assert found["as it comes"][0] == 2e-5 and found["as it comes"][1] > 2e-5, "the behaviour has changed"
assert found["min_lr 1e-7"][0] < 2e-5, "the behaviour has changed"
PYTHON
"$folder/venv/bin/python" "$folder/try.py"
