#!/usr/bin/env bash
# pytorch_optimizer 4.1.0: the learning rate of some optimizers does nothing, or not where it is expected, unless another argument is set
# too. AdaFactor takes it, keeps it in its groups, and moves each tensor by a hundredth of its size in every step all the same
# (`relative_step` is true by default; transformers' Adafactor refuses a rate then). A2Grad has no use for it. Of AdaBound it
# is not the rate but `final_lr`, 0.1 by default, that counts at a rate of fine-tuning. ApolloDQN does not see a schedule in its
# first 500 steps, and MARS moves biases and norms at `lr_1d`, 3e-3 by default, whatever `lr` is.
# Seen, how many times as far 20 steps go at 1e-3 as at 1e-5, where the optimizer is made with it and where its groups are set to it
# after five steps; AdamW 100 and 100; AdaFactor 1.0 and 1.0; A2Grad 1.0 and 1.0; AdaBound 1.1 and 100; ApolloDQN 4.1 and 1.0;
# MARS 1.0 and 100 for a vector, 100 and 100 for a matrix.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "pytorch_optimizer==4.1.0" "numpy==2.4.6"
cat > "$folder/try.py" <<'PYTHON'
import torch
from pytorch_optimizer import MARS, A2Grad, AdaBound, AdaFactor, ApolloDQN


def ways(kind, made_with, set_to):
    """How far a matrix and a vector go in 20 steps, after five at the rate that the optimizer is made with."""
    random = torch.Generator().manual_seed(0)
    weights = [torch.nn.Parameter(0.05 * torch.randn(shape, generator=random)) for shape in ((8, 6), (6,))]
    optimizer = kind(weights, lr=made_with)
    for step in range(25):
        if step == 5:
            start = [each.detach().clone() for each in weights]
            for group in optimizer.param_groups:
                group["lr"] = set_to
        for each in weights:
            each.grad = torch.randn(each.shape, generator=random) + 0.5
        optimizer.step()
    return [(each.detach() - before).norm().item() for each, before in zip(weights, start)]


def ratios(kind):
    high = ways(kind, 1e-3, 1e-3)
    return [[round(a / b, 1) for a, b in zip(high, ways(kind, made, 1e-5))] for made in (1e-5, 1e-3)]


found = {kind.__name__: ratios(kind) for kind in (torch.optim.AdamW, AdaFactor, A2Grad, AdaBound, ApolloDQN, MARS)}
for name, (made, scheduled) in found.items():
    print(f"{name}: made with it {made}, set later {scheduled} (matrix, vector)")
made = {name: each[0] for name, each in found.items()}
scheduled = {name: each[1] for name, each in found.items()}
assert min(made["AdamW"] + scheduled["AdamW"] + scheduled["AdaBound"]) > 90, "the behaviour has changed"
assert max(made["AdaFactor"] + scheduled["AdaFactor"] + made["A2Grad"]) < 1.1, "the behaviour has changed"
assert max(made["AdaBound"]) < 1.5 and max(scheduled["ApolloDQN"]) < 1.1, "the behaviour has changed"
assert made["MARS"][0] > 90 and made["MARS"][1] < 1.1, "the behaviour has changed"
PYTHON
"$folder/venv/bin/python" "$folder/try.py"
