#!/usr/bin/env bash
# torchmetrics 1.9.0: for constant predictions, whose correlation with the targets is undefined, PearsonCorrCoef gives NaN
# and SpearmanCorrCoef gives 0. SciPy gives NaN for both. A run that logs both (STS-B's two metrics) has a number in one
# and NaN in the other, and an early stopping with check_finite on the first ends it.
# Seen: Pearson nan, Spearman 0.0; SciPy nan, nan
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "torchmetrics==1.9.0" "scipy==1.17.1" "numpy==2.4.6"
cat > "$folder/try.py" <<'PYTHON'
import math
import warnings

import torch
from scipy import stats
from torchmetrics import PearsonCorrCoef, SpearmanCorrCoef

warnings.simplefilter("ignore")
constant, targets = torch.full((4,), 2.5), torch.tensor([1.0, 2.0, 3.0, 5.0])
found = []
for metric in (PearsonCorrCoef(), SpearmanCorrCoef()):
    metric.update(constant, targets)
    found.append(float(metric.compute()))
reference = [float(stats.pearsonr(constant, targets).statistic), float(stats.spearmanr(constant, targets).statistic)]
print(f"torchmetrics: Pearson {found[0]}, Spearman {found[1]}; SciPy: {reference[0]}, {reference[1]}")
assert math.isnan(found[0]) and found[1] == 0.0, "the behaviour has changed"
assert all(map(math.isnan, reference)), "the behaviour has changed"
PYTHON
"$folder/venv/bin/python" "$folder/try.py"
