#!/usr/bin/env bash
# torchmetrics 1.9.0: `MeanMetric(nan_strategy="disable")`, documented as a mean without NaN checks, takes no notice of
# weights: it sets all of them to 1, without a warning. A mean over batches of unlike sizes is then one over batches.
# Seen: the mean of 1 with weight 3 and of 2 with weight 1 is 1.25 by default and 1.5 with "disable".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "torchmetrics==1.9.0" numpy
cat > "$folder/try.py" <<'PYTHON'
import torch
from torchmetrics.aggregation import MeanMetric

means = {}
for strategy in ("warn", "disable"):
    metric = MeanMetric(nan_strategy=strategy)
    metric.update(torch.tensor(1.0), weight=3)
    metric.update(torch.tensor(2.0), weight=1)
    means[strategy] = metric.compute().item()
print(means)
assert means == {"warn": 1.25, "disable": 1.5}, "the behaviour has changed"
PYTHON
"$folder/venv/bin/python" "$folder/try.py" "$folder"
