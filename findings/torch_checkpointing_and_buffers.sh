#!/usr/bin/env bash
# torch 2.13.0: `torch.utils.checkpoint`, which is meant to trade time for memory alone, trains another model where a forward pass updates
# buffers. The pass is made twice, and only the random numbers are put back. BatchNorm's running averages, in the convolution blocks of
# Conformer speech models too, are updated twice in every step, as with a momentum of 0.19 in place of 0.1, so that evaluations
# differ; spectral norm (`parametrizations.spectral_norm`) takes another step of its power iteration in the second pass, so that
# the gradient belongs to other weights than the loss. `use_reentrant` changes neither, and `determinism_check` sees neither: it
# compares shapes, types and devices.
# Seen, one step: 2 batches counted by BatchNorm and a running mean 1.90 times as far from 0; of a fresh layer of 64 x 64 with spectral
# norm the gradient differs by 0.006 of its norm from the one without checkpointing.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "numpy==2.4.6"
cat > "$folder/try.py" <<'PYTHON'
import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm
from torch.utils.checkpoint import checkpoint

torch.manual_seed(0)
inputs = torch.randn(16, 64, requires_grad=True)


def run(make, use_reentrant):
    torch.manual_seed(1)
    layer = make()
    output = layer(inputs) if use_reentrant is None else checkpoint(layer, inputs, use_reentrant=use_reentrant)
    output.square().sum().backward()
    return layer


def gradient(use_reentrant):
    return run(lambda: spectral_norm(nn.Linear(64, 64)), use_reentrant).parametrizations.weight.original.grad


def averages(use_reentrant):
    norm = run(lambda: nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU()), use_reentrant)[1]
    return norm.num_batches_tracked.item(), norm.running_mean.norm()


plain, (_, mean) = gradient(None), averages(None)
for use_reentrant in (True, False):
    difference = ((gradient(use_reentrant) - plain).norm() / plain.norm()).item()
    counted, twice = averages(use_reentrant)
    ratio = (twice / mean).item()
    print(f"use_reentrant={use_reentrant}: the gradient differs by {difference:.3f}; {counted} batches counted, running mean x {ratio:.2f}")
    assert difference > 1e-3 and counted == 2 and ratio > 1.8, "the behaviour has changed"
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/try.py"
