#!/usr/bin/env bash
# torchmetrics 1.9.0: a metric of several classes has another average by default under its two names. `F1Score(task="multiclass", …)` is
# "micro", which with one label for each row is the accuracy; `MulticlassF1Score(…)` is "macro". So are accuracy, precision and
# recall, of which the four "micro" ones are all the same number, and `MulticlassAccuracy` is the mean recall.
# Seen, 100 rows of which 90 are of one class of three, and that class predicted for all: 0.90 for all four by the first name; by the
# second accuracy and recall 0.33, precision 0.30, F1 0.32.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "torchmetrics==1.9.0" "numpy==2.4.6"
cat > "$folder/try.py" <<'PYTHON'
import torch
import torchmetrics
from torchmetrics import classification

labels = torch.tensor([0] * 90 + [1] * 5 + [2] * 5)
predictions = torch.zeros(100, dtype=torch.long)
found = {}
for name in ("Accuracy", "Precision", "Recall", "F1Score"):
    by_task = getattr(torchmetrics, name)(task="multiclass", num_classes=3)
    by_class = getattr(classification, f"Multiclass{name}")(num_classes=3)
    found[name] = [round(metric(predictions, labels).item(), 2) for metric in (by_task, by_class)]
    print(f'{name}(task="multiclass"): {found[name][0]}, Multiclass{name}: {found[name][1]}')
expected = {"Accuracy": [0.9, 0.33], "Precision": [0.9, 0.3], "Recall": [0.9, 0.33], "F1Score": [0.9, 0.32]}
assert found == expected, "the behaviour has changed"
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/try.py" "$folder"
