#!/usr/bin/env bash
# torchmetrics 1.9.0: metrics that take probabilities or logits decide batch by batch which they got: a batch whose logits all lie
# between 0 and 1 is taken for probabilities, and the next one goes through a sigmoid. Logits of a young or a cautious model
# do so often in small batches. A logit of 0.3 then counts as less than a half, and in a ranking it comes before the 0.57 that
# a logit of 0.3 becomes elsewhere. Open since 2023: Lightning-AI/torchmetrics issue 2195.
# `sigmoid` first, or labels in place of scores, is right.
# Seen, 2000 logits: an area under the curve of 0.743 in batches of 1, 0.805 of 2, 0.872 at once; accuracy 0.696, 0.752, 0.809.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "torchmetrics==1.9.0" "numpy==2.4.6"
cat > "$folder/try.py" <<'PYTHON'
import torch
from torchmetrics.classification import BinaryAccuracy, BinaryAUROC

torch.manual_seed(0)
logits = 0.7 * torch.randn(2000) + 0.3
targets = (torch.rand(2000) < torch.sigmoid(3 * logits)).long()


def score(metric, size, scores=logits):
    for start in range(0, len(scores), size):
        metric.update(scores[start : start + size], targets[start : start + size])
    return float(metric.compute())


areas = {size: score(BinaryAUROC(), size) for size in (1, 2, 2000)}
accuracies = {size: score(BinaryAccuracy(), size) for size in (1, 2, 2000)}
right = score(BinaryAUROC(), 1, torch.sigmoid(logits)), score(BinaryAccuracy(), 1, torch.sigmoid(logits))
print(f"area under the curve by batch size: {areas}; accuracy: {accuracies}; with sigmoid first: {right}")
assert abs(right[0] - areas[2000]) < 1e-5 and abs(right[1] - accuracies[2000]) < 1e-5, "the behaviour has changed"
assert areas[1] < areas[2] - 0.03 < areas[2000] - 0.06, "the behaviour has changed"
assert accuracies[1] < accuracies[2000] - 0.05, "the behaviour has changed"
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/try.py"
