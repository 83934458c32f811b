#!/usr/bin/env bash
# torchmetrics 1.9.0: NormalizedRootMeanSquaredError is negative where the targets' mean is: by default it divides by that mean as it is,
# with its sign. The lower, the better, says the metric (`higher_is_better` is False), so that a checkpoint or a search by it takes the
# model with the largest errors: log-probabilities, temperatures below zero, differences. Near a mean of 0 it means nothing at all.
# Nothing is said. `normalization="std"` or `"range"` is right.
# Seen, targets around -1 and errors of 0.01, 0.1 and 1: -0.01, -0.1 and -1.0, the best of which is the last; 0.009, 0.094 and 0.945 by "std".
# MetricTracker's best step is the one with the largest error.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "torchmetrics==1.9.0" "numpy==2.4.6"
cat > "$folder/try.py" <<'PYTHON'
import torch
from torchmetrics.regression import NormalizedRootMeanSquaredError
from torchmetrics.wrappers import MetricTracker

torch.manual_seed(0)
targets = torch.randn(1000) - 1
noise = torch.randn(1000)
ERRORS = (0.01, 0.1, 1.0)
best = {}
for options in ({}, {"normalization": "std"}):
    tracker = MetricTracker(NormalizedRootMeanSquaredError(**options), maximize=None)
    for error in ERRORS:
        tracker.increment()
        tracker.update(targets + error * noise, targets)
    values = [round(value.item(), 3) for value in tracker.compute_all()]
    _, step = tracker.best_metric(return_step=True)
    best[options.get("normalization", "default")] = ERRORS[step]
    print(f"{options}: errors of {ERRORS} give {values}; the best is said to be that of {ERRORS[step]}")
assert best == {"default": 1.0, "std": 0.01}, "the behaviour has changed"
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/try.py"
