#!/usr/bin/env bash
# accelerate 1.15.0: `optimizer.step(closure)` within `accumulate` calls the closure in the batches that end a step alone. With
# accumulation over n batches the others are never computed, so that n - 1 of n rows are not trained on, and the one gradient
# that is there has been divided by n. The wrapped `step` returns None, whatever the optimizer's returns. So it is for every
# optimizer that takes a closure: LBFGS, line searches, SAM. A loop without a closure is right.
# Seen, eight batches, accumulation over 4: batches 4 and 8 are computed; gradient 0.25 where the mean of four batches is 1.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "accelerate==1.15.0" "numpy==2.4.6"
cat > "$folder/try.py" <<'PYTHON'
import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader

accelerator = Accelerator(cpu=True, gradient_accumulation_steps=4)
model = torch.nn.Linear(1, 1, bias=False)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
model, optimizer, loader = accelerator.prepare(model, optimizer, DataLoader(torch.ones(8, 1)))
computed, gradients, returned = [], [], []
for number, batch in enumerate(loader, 1):
    with accelerator.accumulate(model):

        def closure():
            computed.append(number)
            loss = model(batch).mean()
            accelerator.backward(loss)
            return loss

        returned.append(optimizer.step(closure))
        if accelerator.sync_gradients:
            gradients.append(model.weight.grad.item())
        optimizer.zero_grad()
print(f"computed {computed}, gradients {gradients}, returned {set(returned)}")
assert computed == [4, 8] and gradients == [0.25, 0.25], "the behaviour has changed"
assert set(returned) == {None}, "the behaviour has changed"
PYTHON
"$folder/venv/bin/python" "$folder/try.py"
