#!/usr/bin/env bash
# torchmetrics 1.9.0: what a metric in a MetricCollection says depends on the order of the rows. Metrics whose states are equal
# after the first batch are taken for one for good, and only one of them is updated from then on: two accuracies, one of which
# ignores a class, if that class is not among the first batch's labels (rows sorted by label, a rare class).
# `compute_groups=False` is right. Known of metrics with states alike: Lightning-AI/torchmetrics issues 2596 and 2916.
# Seen, accuracy without class 0: 0.6 with `compute_groups=False`, and 0.75 or 0.6 by default, by the order of two batches.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "torchmetrics==1.9.0" numpy
cat > "$folder/try.py" <<'PYTHON'
import torch
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy

rare_class = torch.tensor([0, 0, 0, 2]), torch.tensor([0, 0, 0, 1])
others = torch.tensor([1, 2, 2, 1]), torch.tensor([1, 2, 1, 1])


def accuracies(batches, **options):
    every = MulticlassAccuracy(3, average="micro")
    without = MulticlassAccuracy(3, average="micro", ignore_index=0)
    collection = MetricCollection({"every class": every, "without class 0": without}, **options)
    for predicted, labels in batches:
        collection.update(predicted, labels)
    return {name: round(value.item(), 3) for name, value in collection.compute().items()}


right = accuracies([others, rare_class], compute_groups=False)
late, early = accuracies([others, rare_class]), accuracies([rare_class, others])
print(f"without groups: {right}\nby default, class 0 in the second batch: {late}\n            class 0 in the first batch: {early}")
assert right == early == {"every class": 0.75, "without class 0": 0.6}, "the behaviour has changed"
assert late == {"every class": 0.75, "without class 0": 0.75}, "the behaviour has changed"
PYTHON
"$folder/venv/bin/python" "$folder/try.py"
