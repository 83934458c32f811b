#!/usr/bin/env bash
# torchmetrics 1.9.0: with `thresholds=100`, which saves memory, an area under the curve depends on where the scores lie.
# The thresholds are spread evenly from 0 to 1, so that all scores below 0.01 are one and the same: a classifier of a rare
# class, whose scores are small because it is calibrated, looks hardly better than chance. No range of scores is looked at,
# and nothing is said.
# Seen, 2 % positives and scores of which 99 % are below 0.01: AUROC 0.93 and average precision 0.41 exactly, 0.68 and 0.23 with 100
# thresholds; an AUROC of 0.93 from the ranks of the same scores, which have the same order.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "torchmetrics==1.9.0" "numpy==2.4.6"
cat > "$folder/try.py" <<'PYTHON'
import torch
from torchmetrics.classification import BinaryAUROC, BinaryAveragePrecision

torch.manual_seed(0)
labels = (torch.rand(20000) < 0.02).int()
scores = torch.sigmoid(torch.randn(20000) + 2 * labels - 7)
ranks = scores.argsort().argsort() / 20000


def areas(scores, thresholds):
    return [kind(thresholds=thresholds)(scores, labels).item() for kind in (BinaryAUROC, BinaryAveragePrecision)]


print(f"{(scores < 0.01).float().mean():.2f} of the scores are below 0.01")
exact, binned, spread = areas(scores, None), areas(scores, 100), areas(ranks, 100)
for name, found in (("exact", exact), ("100 thresholds", binned), ("100 thresholds, ranks", spread)):
    print(name, [round(value, 2) for value in found])
assert exact[0] > 0.9 and binned[0] < 0.75 and binned[1] < 0.7 * exact[1], "the behaviour has changed"
assert abs(spread[0] - exact[0]) < 0.02, "the behaviour has changed"
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/try.py" "$folder"
