#!/usr/bin/env bash
# torch 2.13.0: `cross_entropy` with class weights divides by the sum of the weights of the batch's rows. A step that is accumulated over
# micro-batches, each with this mean and an equal share, weights classes the less the smaller they are, and with one row
# each not at all: the row's weight is divided by itself. The run is the same as without weights. Under accumulation
# take `reduction="sum"` and divide by the sum of the weights of all rows of the step.
# Seen, 7 % of the rows in the rare class, balanced weights, steps of 16 rows: a recall of the rare class of 0.65 with one batch of 16,
# 0.35 with four of 4, 0.10 with sixteen of 1, and 0.10 without weights; 0.65 for any size with sums.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "numpy==2.4.6"
cat > "$folder/try.py" <<'PYTHON'
import torch
from torch.nn.functional import cross_entropy

torch.manual_seed(0)
rows = torch.randn(2000, 10)
labels = (rows[:, 0] + 1.5 * torch.randn(2000) > 2.6).long()
share = labels.float().mean()
BALANCED = torch.tensor([1.0, (1 - share) / share])


def recall(micro, weights, summed=False):
    """Train with steps of 16 rows in micro-batches, and return the share of the rare rows that are found."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(10, 2)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.01)
    for _ in range(5):
        for start in range(0, 2000, 16):
            for first in range(start, start + 16, micro):
                part, wanted = layer(rows[first : first + micro]), labels[first : first + micro]
                if summed:
                    total = weights[labels[start : start + 16]].sum()
                    loss = cross_entropy(part, wanted, weights, reduction="sum") / total
                else:
                    loss = cross_entropy(part, wanted, weights) * micro / 16
                loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    return (layer(rows).argmax(1)[labels == 1] == 1).float().mean().item()


means = {micro: recall(micro, BALANCED) for micro in (16, 4, 1)}
sums = {micro: recall(micro, BALANCED, summed=True) for micro in (16, 4, 1)}
without = recall(1, None)
print(f"{share:.1%} of the rows are rare; recall by the size of micro-batches:")
for name, found in (("means", means), ("sums", sums)):
    print(name, {micro: round(value, 2) for micro, value in found.items()})
print(f"without weights {without:.2f}")
assert means[16] > 0.6 and means[4] < 0.45 and abs(means[1] - without) < 0.02 < 0.2 > without, "the behaviour has changed"
assert max(sums.values()) - min(sums.values()) < 0.02 and sums[1] > 0.6, "the behaviour has changed"
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/try.py" "$folder"
