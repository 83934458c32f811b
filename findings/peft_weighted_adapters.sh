#!/usr/bin/env bash
# peft 0.21.2: `add_weighted_adapter(…, combination_type="linear")` does not make the weighted sum of what LoRA adapters do. It adds
# their A matrices and their B matrices, each with the root of its weight, so that products of one adapter's B with another's A
# come in. The documentation calls it a very rough approximation; how rough depends on what is combined: adapters that
# are alike (checkpoints of one run), averaged with halves, come out twice as large as they are, and two that are unlike
# come out as far from their average as that is large. "cat" and "svd" (the default) add what the adapters do.
# Seen, with halves: an adapter and its copy 2.00 times as large as they are with "linear", 1.00 with "cat" and "svd"; two unlike
# adapters are at a distance of 1.01 from their average, relative to its size, with "linear", and of 0.00 with the others.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "transformers==5.23.0" "peft==0.21.2" "numpy==2.4.6"
cat > "$folder/try.py" <<'PYTHON'
import warnings

import torch
from peft import LoraConfig, get_peft_model
from transformers import BertConfig, BertModel

warnings.simplefilter("ignore")
SIZES = {"vocab_size": 20, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}


def make(seeds):
    torch.manual_seed(0)
    config = LoraConfig(r=4, target_modules=["query"], init_lora_weights=False)
    model = get_peft_model(BertModel(BertConfig(**SIZES)), config, adapter_name="first")
    model.add_adapter("second", config)
    layer = model.base_model.model.encoder.layer[0].attention.self.query
    for name, seed in zip(("first", "second"), seeds):
        torch.manual_seed(seed)
        for matrices in (layer.lora_A, layer.lora_B):
            torch.nn.init.normal_(matrices[name].weight)
    return model, layer


def change(layer, name):
    """The matrix that an adapter adds to the layer's, from what the layer returns."""
    base = layer.base_layer.weight.detach()
    layer.set_adapter(name)
    with torch.no_grad():
        return layer(torch.eye(32)).T - layer.base_layer.bias.unsqueeze(1) - base


found = {}
for alike in (True, False):
    for kind in ("linear", "cat", "svd"):
        model, layer = make((1, 1) if alike else (1, 2))
        model.eval()
        rank = {"svd_rank": 8} if kind == "svd" else {}
        model.add_weighted_adapter(["first", "second"], [0.5, 0.5], "both", combination_type=kind, **rank)
        average = (change(layer, "first") + change(layer, "second")) / 2
        both = change(layer, "both")
        size, distance = (both.norm() / average.norm()).item(), ((both - average).norm() / average.norm()).item()
        found[alike, kind] = size, distance
        print(f"{'alike' if alike else 'unlike'}, {kind}: size {size:.2f}, distance {distance:.2f}")
assert abs(found[True, "linear"][0] - 2) < 1e-3 and found[False, "linear"][1] > 0.8, "the behaviour has changed"
assert all(each[1] < 1e-3 for (_, kind), each in found.items() if kind != "linear"), "the behaviour has changed"
PYTHON
"$folder/venv/bin/python" "$folder/try.py"
