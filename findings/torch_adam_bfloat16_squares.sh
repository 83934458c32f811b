#!/usr/bin/env bash
# torch 2.13.0: the average of squared gradients that Adam and AdamW keep for weights in bfloat16 only rises. In a step it falls
# by a thousandth (beta2 0.999), and a bfloat16 rounds to the nearest 256th, which is what it was. The largest gradients of a
# run, which are its first, set the step for good: as gradients fall by a factor, so do steps, and training comes to an end
# without a word. `fused`, `foreach` and plain loops do the same. With a beta2 of at most 0.995, or weights in float32 (under
# autocast as well), the average follows.
# Seen, 4000 gradients of standard deviation 1, then 8000 of 0.01: the root of the average is 0.99 and then 0.02 with float32
# weights, 1.41 and 1.41 with bfloat16 weights (fused: 1.19 and 1.19), so that steps are 141 times too small; with beta2 0.99
# 1.06 and 0.01.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "numpy==2.4.6"
cat > "$folder/try.py" <<'PYTHON'
import torch


def roots(dtype, beta2, **kind):
    """Return the root of the average of squared gradients, after large gradients and after small ones."""
    torch.manual_seed(0)
    weights = torch.nn.Parameter(torch.ones(64, dtype=dtype))
    optimizer = torch.optim.AdamW([weights], lr=0.0, betas=(0.9, beta2), weight_decay=0.0, **kind)
    found = []
    for scale, steps in ((1.0, 4000), (0.01, 8000)):
        for _ in range(steps):
            weights.grad = (scale * torch.randn(64)).to(dtype)
            optimizer.step()
        found.append(optimizer.state[weights]["exp_avg_sq"].float().mean().sqrt().item())
    return found


low, plain = torch.bfloat16, {"foreach": False}
cases = {
    "float32": roots(torch.float32, 0.999, **plain),
    "bfloat16": roots(low, 0.999, **plain),
    "bfloat16, foreach": roots(low, 0.999, foreach=True),
    "bfloat16, fused": roots(low, 0.999, fused=True),
    "bfloat16, beta2 0.99": roots(low, 0.99, **plain),
}
for name, (first, second) in cases.items():
    print(f"{name}: {first:.3f} after gradients of 1, {second:.3f} after gradients of 0.01")
for name in ("bfloat16", "bfloat16, foreach", "bfloat16, fused"):
    assert cases[name][1] > 0.9, "the behaviour has changed"
for name in ("float32", "bfloat16, beta2 0.99"):
    assert cases[name][1] < 0.05, "the behaviour has changed"
PYTHON
"$folder/venv/bin/python" "$folder/try.py"
