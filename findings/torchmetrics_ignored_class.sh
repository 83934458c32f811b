#!/usr/bin/env bash
# torchmetrics 1.9.0: a class that is ignored (`ignore_index`, "does not contribute to the metric calculation") counts as 0 in a macro
# average, as soon as the model predicts it for a text of another class: with four classes the mean of three is
# divided by four. So it is with accuracy (whose default is macro), recall, precision and F1, and with the area under the
# curve whatever is predicted, which alone warns; Jaccard's index and the average precision leave the class out. A class that
# no row of the validation has lowers accuracy and area in the same way. A mean of `average="none"` over the other classes is right.
# Seen, four classes, the first one ignored; torchmetrics and scikit-learn on the other rows: accuracy 0.521 and 0.695, recall 0.521
# and 0.695, F1 0.538 and 0.718, area under the curve 0.661 and 0.881.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "torchmetrics==1.9.0" "numpy==2.4.6" "scikit-learn==1.9.1"
cat > "$folder/try.py" <<'PYTHON'
import warnings

import numpy as np
import torch
from sklearn.metrics import f1_score, precision_score, recall_score, roc_auc_score
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassAUROC,
    MulticlassF1Score,
    MulticlassPrecision,
    MulticlassRecall,
)

warnings.simplefilter("ignore")
random = np.random.default_rng(0)
labels = random.integers(0, 4, 400)
scores = torch.tensor(random.normal(size=(400, 4)) + 1.5 * np.eye(4)[labels]).softmax(1)
kept, others = labels != 0, [1, 2, 3]
predicted, share = scores.argmax(1).numpy()[kept], scores.numpy()[kept]
options = {"labels": others, "average": "macro"}
expected = {
    MulticlassAccuracy: recall_score(labels[kept], predicted, **options),
    MulticlassRecall: recall_score(labels[kept], predicted, **options),
    MulticlassPrecision: precision_score(labels[kept], predicted, **options),
    MulticlassF1Score: f1_score(labels[kept], predicted, **options),
    MulticlassAUROC: np.mean([roc_auc_score(labels[kept] == each, share[:, each]) for each in others]),
}
for kind, right in expected.items():
    macro = kind(4, average="macro", ignore_index=0)(scores, torch.tensor(labels)).item()
    absent = kind(4, average="macro")(scores[kept], torch.tensor(labels[kept])).item()
    each = kind(4, average="none", ignore_index=0)(scores, torch.tensor(labels))
    print(f"{kind.__name__}: {macro:.3f}; without the rows {absent:.3f}; mean of the others {each[1:].mean():.3f};", end=" ")
    print(f"scikit-learn {right:.3f}")
    assert abs(each[1:].mean().item() - right) < 1e-4, "the behaviour has changed"
    assert abs(macro - 0.75 * right) < 1e-4 and abs(absent - macro) < 1e-4, "the behaviour has changed"
PYTHON
"$folder/venv/bin/python" "$folder/try.py"
