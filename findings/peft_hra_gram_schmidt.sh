#!/usr/bin/env bash
# peft 0.21.2: HRA with `apply_GS=True`, the variant whose reflections are orthogonal, does not begin as the pretrained model and turns
# NaN. HRA begins with pairs of equal vectors, whose reflections undo each other; Gram-Schmidt takes from the second of a pair what
# it has in common with the first, which is all of it, and stretches the rounding errors that are left to a direction of length 1. What
# is reflected is noise, no reflection is undone, and the gradient is divided by almost nothing. `init_weights=True`, the default,
# promises a start that changes nothing. Nothing is said.
# Seen, a decoder of two layers, HRA on queries and values: logits of up to 0.44 move by 0.39 before any step, and are NaN after the first
# step of AdamW at 1e-2; with `apply_GS=False` they move by 7.5e-8, and are finite after 50.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "transformers==5.24.0" "peft==0.21.2" \
    "accelerate==1.15.0" "numpy==2.4.6"
cat > "$folder/try.py" <<'PYTHON'
import torch
from peft import HRAConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

SIZES = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
TEXTS = torch.randint(0, 64, (4, 12), generator=torch.Generator().manual_seed(1))


def logits(model):
    with torch.no_grad():
        return model(input_ids=TEXTS).logits


found = {}
for orthogonal in (False, True):
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SIZES))
    pretrained = logits(model)
    model = get_peft_model(model, HRAConfig(r=4, apply_GS=orthogonal, target_modules=["q_proj", "v_proj"]))
    moved = (logits(model) - pretrained).abs().max().item()
    optimizer = torch.optim.AdamW([parameter for parameter in model.parameters() if parameter.requires_grad], lr=1e-2)
    steps = 0
    while steps < 50 and logits(model).isfinite().all():
        optimizer.zero_grad()
        model(input_ids=TEXTS, labels=TEXTS).loss.backward()
        optimizer.step()
        steps += 1
    finite = logits(model).isfinite().all().item()
    found[orthogonal] = moved, finite
    largest = pretrained.abs().max().item()
    end = "finite" if finite else "NaN"
    print(f"apply_GS={orthogonal}: logits up to {largest:.2f} move by {moved:.1e} before training, {end} after {steps} steps")
assert found[False][0] < 1e-5 and found[False][1] and found[True][0] > 0.02 and not found[True][1], "the behaviour has changed"
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/try.py" 2> "$folder/errors" || { cat "$folder/errors"; exit 1; }
