#!/usr/bin/env bash
# torch 2.13.0: an optimizer made from `named_parameters()` writes the names of its parameters into its `state_dict`, and loads by their
# order all the same. Where that has changed (a layer registered earlier, groups regrouped) parameters take each other's
# averages without a word, wrong shapes included, and the names come from the checkpoint, so that they name others' parameters.
# Seen, AdamW on two layers that changed places: each has the other's average, and its group says ["query", "key"] of key and query.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "numpy==2.4.6"
cat > "$folder/try.py" <<'PYTHON'
import torch

query, key = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
optimizer = torch.optim.AdamW([("query", query), ("key", key)], lr=0.1)
query.grad, key.grad = torch.full((2,), 1.0), torch.full((2,), 5.0)
optimizer.step()
saved = optimizer.state_dict()
assert saved["param_groups"][0]["param_names"] == ["query", "key"]

turned = torch.optim.AdamW([("key", key), ("query", query)], lr=0.1)
turned.load_state_dict(saved)
averages = {
    name: (optimizer.state[each]["exp_avg"][0].item(), turned.state[each]["exp_avg"][0].item())
    for name, each in (("query", query), ("key", key))
}
names = turned.param_groups[0]["param_names"]
for name, (before, after) in averages.items():
    print(f"{name}: average {before:.1f} saved, {after:.1f} loaded")
print("names of the loaded optimizer, whose parameters are key and query:", names)
assert averages["query"][0] == averages["key"][1] and averages["key"][0] == averages["query"][1], "the behaviour has changed"
assert turned.param_groups[0]["params"][0] is key and names == ["query", "key"], "the behaviour has changed"

wide = torch.nn.Parameter(torch.ones(3))
other = torch.optim.AdamW([("key", wide), ("query", query)], lr=0.1)
other.load_state_dict(saved)
assert other.state[wide]["exp_avg"].shape == (2,), "the behaviour has changed"
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/try.py" "$folder"
