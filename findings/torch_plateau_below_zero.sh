#!/usr/bin/env bash
# torch 2.13.0: ReduceLROnPlateau never lowers the rate while what it watches is below zero: a log-likelihood, a similarity or a score
# with its sign turned round, the loss of a density. What counts as better is less than (1 - 1e-4) times the best value, by default;
# below zero that is more than the best value, so that an equal one is better, and so is one that gets worse by less than a
# ten-thousandth each time. The schedule waits for ever, without a word. `threshold_mode="abs"` is right.
# Seen, 30 equal values with patience 2, rate 1e-3: at 0.8 the rate falls to 1e-12, at -0.8 it stays 1e-3, with mode min and
# with mode max; with `threshold_mode="abs"` it falls in all four.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "numpy==2.4.6"
cat > "$folder/try.py" <<'PYTHON'
import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau


def rate_after(value, mode, change=0.0, **options):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)
    schedule = ReduceLROnPlateau(optimizer, mode=mode, patience=2, eps=0, **options)
    for step in range(30):
        schedule.step(value + step * change)
    return optimizer.param_groups[0]["lr"]


for mode, worse in (("min", 5e-5), ("max", -5e-5)):
    above, below = rate_after(0.8, mode), rate_after(-0.8, mode)
    absolute = [rate_after(value, mode, threshold_mode="abs") for value in (0.8, -0.8)]
    getting_worse = rate_after(-0.8, mode, worse)
    print(f"mode {mode}: at 0.8 {above:.0e}, at -0.8 {below:.0e}, at -0.8 and getting worse {getting_worse:.0e};", end=" ")
    print(f"with abs {absolute[0]:.0e} and {absolute[1]:.0e}")
    assert above < 1e-8 and max(absolute) < 1e-8, "the behaviour has changed"
    assert below == getting_worse == 1e-3, "the behaviour has changed"
PYTHON
"$folder/venv/bin/python" "$folder/try.py"
