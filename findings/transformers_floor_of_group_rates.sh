#!/usr/bin/env bash
# transformers 5.23.0: the absolute floors of its schedules, `min_lr` of cosine_with_min_lr and `lr_end` of polynomial, are
# turned into a share of the optimizer's default rate, and that share of every group's own rate is the group's floor. A
# group never ends at the floor that was given unless its rate is the default: with rates by group alone the default is
# AdamW's own 1e-3, and an encoder at 2e-5 falls fifty times below the floor.
# Seen, floor 1e-6, encoder at 2e-5, head at 1e-3: they end at 2e-8 and 1e-6 where the optimizer's `lr` is left out, at 1e-6
# and 5e-5 where it is 2e-5.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "transformers==5.23.0" "numpy==2.4.6"
cat > "$folder/try.py" <<'PYTHON'
import torch
from transformers import get_scheduler

STEPS = 10


def last_rates(schedule, floor, **default):
    encoder, head = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    optimizer = torch.optim.AdamW([{"params": [encoder], "lr": 2e-5}, {"params": [head], "lr": 1e-3}], **default)
    options = {"num_warmup_steps": 0, "num_training_steps": STEPS, "scheduler_specific_kwargs": floor}
    rates = get_scheduler(schedule, optimizer, **options)
    for _ in range(STEPS):
        optimizer.step()
        rates.step()
    return [float(f"{group['lr']:.3g}") for group in optimizer.param_groups]


for schedule, floor in (("cosine_with_min_lr", {"min_lr": 1e-6}), ("polynomial", {"lr_end": 1e-6})):
    without, given = last_rates(schedule, floor), last_rates(schedule, floor, lr=2e-5)
    print(f"{schedule}, floor 1e-6: encoder and head end at {without}, with lr=2e-5 for the optimizer at {given}")
    assert without == [2e-8, 1e-6] and given == [1e-6, 5e-5], "the behaviour has changed"
PYTHON
"$folder/venv/bin/python" "$folder/try.py"
