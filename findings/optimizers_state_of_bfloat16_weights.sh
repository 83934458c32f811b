#!/usr/bin/env bash
# came-pytorch 0.1.3 and madgrad 1.3 under torch 2.13.0: beside bfloat16 weights both keep their averages and sums in
# float32. `load_state_dict`, which is torch's, rounds them to the weights' bfloat16, and from then on what a step adds is too
# little to count: CAME's averages of the residual and MADGRAD's sum of squares stand still where an uninterrupted run's move.
# Seen, gradients three times as large after step 100: CAME's average 0.153 and, resumed there, 0.065; MADGRAD's sum 5300 and
# 3937.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" numpy
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps "came-pytorch==0.1.3" "madgrad==1.3"
cat > "$folder/try.py" <<'PYTHON'
import copy

import torch
from came_pytorch import CAME
from madgrad import MADGRAD

torch.set_num_threads(1)


def step(optimizer, number):
    generator = torch.Generator().manual_seed(number)
    for group in optimizer.param_groups:
        for p in group["params"]:
            p.grad = torch.randn(p.shape, generator=generator).to(p.dtype) * (1 if number < 100 else 3)
    optimizer.step()


for make, name in ((lambda p: CAME(p, lr=1e-3), "exp_avg_res_row"), (lambda p: MADGRAD(p, lr=1e-2), "grad_sum_sq")):
    weights = torch.nn.Parameter(torch.randn(8, 6, generator=torch.Generator().manual_seed(99)).bfloat16())
    optimizer = make([weights])
    for number in range(100):
        step(optimizer, number)
    resumed_weights = torch.nn.Parameter(weights.detach().clone())
    resumed = make([resumed_weights])
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for number in range(100, 2000):
        step(optimizer, number)
        step(resumed, number)
    one, other = optimizer.state[weights][name], resumed.state[resumed_weights][name]
    means = one.float().mean().item(), other.float().mean().item()
    print(f"{type(optimizer).__name__}: {name} uninterrupted {means[0]:.4g} ({one.dtype}), resumed {means[1]:.4g} ({other.dtype})")
    assert one.dtype == torch.float32 and other.dtype == torch.bfloat16 and means[1] < 0.8 * means[0], "the behaviour has changed"
PYTHON
"$folder/venv/bin/python" "$folder/try.py" "$folder"
