#!/usr/bin/env bash
# accelerate 1.15.0: ReduceLROnPlateau that went through `prepare` takes every metric once for each process, as schedules over
# steps are stepped once for each process. The first time may be an improvement, the others are equal values: with more
# processes than `patience` + 1 the rate is lowered after every evaluation, however much better it was. A script that is right
# on one GPU trains at next to no rate on eight. A plateau schedule that is left out of `prepare` is right. Asked in 2025
# (huggingface/accelerate issue 3797).
# Seen, patience 2, five losses each better than the one before, rate 1e-3: 1e-3 on one and two processes, 1e-8 on four.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "accelerate==1.15.0" "numpy==2.4.6"
cat > "$folder/try.py" <<'PYTHON'
import torch
from accelerate import Accelerator

accelerator = Accelerator(cpu=True)
model = torch.nn.Linear(1, 1)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.1, patience=2)
model, optimizer, schedule = accelerator.prepare(model, optimizer, schedule)
for loss in (1.0, 0.9, 0.8, 0.7, 0.6):
    accelerator.backward(model(torch.ones(1, 1)).sum())
    optimizer.step()
    optimizer.zero_grad()
    schedule.step(loss)
rate = optimizer.param_groups[0]["lr"]
if accelerator.is_main_process:
    print(f"{accelerator.num_processes} processes: rate {rate:.0e}")
expected = {1: 1e-3, 2: 1e-3, 4: 1e-8}[accelerator.num_processes]
assert abs(rate / expected - 1) < 1e-6, "the behaviour has changed"
PYTHON
export OMP_NUM_THREADS=1
for processes in 1 2 4; do
    "$folder/venv/bin/torchrun" --standalone --nproc_per_node "$processes" "$folder/try.py"
done
