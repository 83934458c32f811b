#!/usr/bin/env bash
# accelerate 1.15.0: gradient accumulation is switched off for the rest of an epoch by a look at another loader. `accumulate`
# makes a step in the last batch of the loader that is being read, and a loader counts as being read until it has ended: after
# `next(iter(eval_loader))`, or a `break` out of it, it does so still. If its last batch was the one read, every further batch
# of the epoch makes a step, with a gradient that was divided for the accumulation: n times as many steps, and schedules that
# are over too soon. If it was not, the epoch's last batches make no step. A loader that is read to its end leaves no trace.
# Seen, 16 batches, accumulation over 4: a step in batches 4, 8, 12 and 16; with one look in batch 6 at a loader of one batch,
# or a loop over a loader of two batches that breaks in the second, in batches 4 and 6 to 16.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "accelerate==1.15.0" "numpy==2.4.6"
cat > "$folder/try.py" <<'PYTHON'
import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader


def look(loader):
    next(iter(loader))


def evaluate(loader):
    for number, _ in enumerate(loader, 1):
        if number == 2:  # the first two batches are enough
            break


def to_the_end(loader):
    for _ in loader:
        pass


def steps(read, eval_batches):
    """Return the batches, of 16, in which a step is made where `read` reads another loader in batch 6."""
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=4)
    model = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loaders = DataLoader(torch.ones(16, 1)), DataLoader(torch.ones(eval_batches, 1))
    model, optimizer, train_loader, eval_loader = accelerator.prepare(model, optimizer, *loaders)
    made = []
    for number, batch in enumerate(train_loader, 1):
        if number == 6 and read is not None:
            read(eval_loader)
        before = model.weight.item()
        with accelerator.accumulate(model):
            accelerator.backward(model(batch).mean())
            optimizer.step()
            optimizer.zero_grad()
        if model.weight.item() != before:
            made.append(number)
    return made


regular, all_from_six = [4, 8, 12, 16], [4, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]
print("no other loader:", steps(None, 1))
print("a look at a loader of one batch:", steps(look, 1))
print("a break in the last of two batches:", steps(evaluate, 2))
print("read to its end:", steps(to_the_end, 2))
assert steps(None, 1) == steps(to_the_end, 2) == regular, "the behaviour has changed"
assert steps(look, 1) == steps(evaluate, 2) == all_from_six, "the behaviour has changed"
PYTHON
"$folder/venv/bin/python" "$folder/try.py"
