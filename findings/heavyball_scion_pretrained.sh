#!/usr/bin/env bash
# heavyball 3.2.1: the first step of `Scion` throws a pretrained model away. Before it moves a parameter for the first time it sets it
# anew: a matrix becomes a random orthogonal one, a vector zero, the weights of LayerNorm too, whatever the learning rate is. That is how
# the method starts from nothing; here the optimizer does it to any model that it is given, no option turns it off, and neither the
# class's description nor a warning mentions it. The other optimizers of the package begin with the weights that are there.
# Seen, a BERT that was trained to an accuracy of 1.00, then one step at a rate of 1e-6: its accuracy falls to 0.56 with Scion,
# a query matrix has a cosine of 0.02 with what it was, and the largest LayerNorm weight is 2e-6; with Muon and AdamW all stays as it was.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "transformers==5.24.0" "heavyball==3.2.1" "numpy==2.4.6"
cat > "$folder/try.py" <<'PYTHON'
import copy

import heavyball
import torch
from transformers import BertConfig, BertForSequenceClassification

heavyball.utils.compile_mode = None  # the same updates, without a compiler
SIZES = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
TEXTS = torch.randint(0, 64, (64, 12), generator=torch.Generator().manual_seed(1))
LABELS = (TEXTS[:, 1] < TEXTS[:, 2]).long()


def step(model, optimizer):
    model(input_ids=TEXTS, labels=LABELS).loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def accuracy(model):
    with torch.no_grad():
        return (model.eval()(input_ids=TEXTS).logits.argmax(1) == LABELS).float().mean().item()


torch.manual_seed(0)
pretrained = BertForSequenceClassification(BertConfig(**SIZES))
optimizer = torch.optim.AdamW(pretrained.parameters(), lr=1e-3)
for _ in range(200):
    step(pretrained.train(), optimizer)
print(f"pretrained: accuracy {accuracy(pretrained):.2f}")
assert accuracy(pretrained) > 0.95, "the setting has changed"
found = {}
for kind in (torch.optim.AdamW, heavyball.Muon, heavyball.Scion):
    model = copy.deepcopy(pretrained).train()
    step(model, kind(model.parameters(), lr=1e-6))
    before, after = pretrained.bert.encoder.layer[0], model.bert.encoder.layer[0]
    queries = [layer.attention.self.query.weight.flatten() for layer in (before, after)]
    cosine = torch.cosine_similarity(*queries, dim=0).item()
    norm = after.output.LayerNorm.weight.abs().max().item()
    found[kind.__name__] = accuracy(model), cosine, norm
    print(f"{kind.__module__}.{kind.__name__}: accuracy {accuracy(model):.2f}, cosine {cosine:.2f}, LayerNorm up to {norm:.1e}")
for name in ("AdamW", "Muon"):
    assert found[name][0] > 0.95 and found[name][1] > 0.999 and found[name][2] > 0.5, "the behaviour has changed"
assert found["Scion"][0] < 0.75 and abs(found["Scion"][1]) < 0.3 and found["Scion"][2] < 1e-3, "the behaviour has changed"
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/try.py" 2> "$folder/errors" || { cat "$folder/errors"; exit 1; }
