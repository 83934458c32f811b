#!/usr/bin/env bash
# torch 2.13.0: CrossEntropyLoss with class weights divides by the sum of the weights of the batch's own rows. In a batch of one
# class a weight divides itself out, so that class weights have no effect at all in batches of one row, however many of
# them are accumulated, and less effect the smaller the batches are. `pos_weight` of BCEWithLogitsLoss, beside it,
# does not depend on the batches.
# Seen, 64 rows of which 8 are of a class with weight 7, the share of the gradient that comes from that class, at zero logits: 0.50
# with all rows in one batch, as `balanced` weights are meant to give, 0.35 in batches of 4 rows, 0.12 in batches of 1, the
# same as without weights; BCEWithLogitsLoss 0.50 each time.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "numpy==2.4.6"
cat > "$folder/try.py" <<'PYTHON'
import torch
from torch import nn

ROWS, RARE, WEIGHT = 64, 8, 7.0


def share_of_rare_class(loss_function, outputs, size):
    """Return which share of the gradient, summed over rows in absolute value, accumulated micro-batches take from the rare class."""
    torch.manual_seed(0)
    labels = (torch.randperm(ROWS) < RARE).long()
    logits = torch.zeros(ROWS, outputs, requires_grad=True)
    for rows in torch.arange(ROWS).split(size):
        targets = labels[rows] if outputs == 2 else labels[rows, None].float()
        (loss_function(logits[rows], targets) * len(rows) / ROWS).backward()
    gradients = logits.grad.abs().sum(1)
    return (gradients[labels == 1].sum() / gradients.sum()).item()


cross_entropy = nn.CrossEntropyLoss(weight=torch.tensor([1.0, WEIGHT]))
binary = nn.BCEWithLogitsLoss(pos_weight=torch.tensor([WEIGHT]))
sizes = (ROWS, 8, 4, 1)
weighted = [share_of_rare_class(cross_entropy, 2, size) for size in sizes]
plain = share_of_rare_class(nn.CrossEntropyLoss(), 2, 1)
beside = [share_of_rare_class(binary, 1, size) for size in sizes]
for name, found in (("CrossEntropyLoss", weighted), ("BCEWithLogitsLoss", beside)):
    print(name, ", ".join(f"{share:.3f} in batches of {size}" for share, size in zip(found, sizes, strict=True)))
print(f"CrossEntropyLoss without weights {plain:.3f}")
assert abs(weighted[0] - 0.5) < 1e-4 and sorted(weighted, reverse=True) == weighted, "the behaviour has changed"
assert abs(weighted[-1] - plain) < 1e-6 and max(abs(share - 0.5) for share in beside) < 1e-4, "the behaviour has changed"
PYTHON
"$folder/venv/bin/python" "$folder/try.py"
