#!/usr/bin/env bash
# peft 0.21.2: `disable_adapter()`, which is to "run inference on the base model", and `unload()` do not give the pretrained
# model where LoRA begins from a part of its weights (`init_lora_weights` "pissa" or "olora"). That part was taken out of them
# and is in the adapter, so that what is left is a model without its largest directions. A comparison before and after training,
# a reference model for DPO or a penalty on the distance to it, and a base that is used again after `unload()` are of that one.
# With the default start all is right.
# Seen, Llama with random weights, logits relative to their standard deviation: with the adapter as pretrained to 1e-5 in all
# three; with the adapter disabled, or unloaded, they differ by 4.5 (pissa), 5.0 (olora) and 0 (the default).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "transformers==5.24.0" "peft==0.21.2" "numpy==2.4.6"
cat > "$folder/try.py" <<'PYTHON'
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

SIZES = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
ids = torch.randint(1, 50, (4, 9), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def differences(start):
    """Return how far from the pretrained logits those with the adapter, with it disabled, and after `unload` are."""
    torch.manual_seed(0)
    original = LlamaForCausalLM(LlamaConfig(**SIZES)).eval()
    for parameter in original.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    pretrained = original(input_ids=ids).logits
    config = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=start)
    model = get_peft_model(original, config).eval()
    adapted = model(input_ids=ids).logits
    with model.disable_adapter():
        disabled = model(input_ids=ids).logits
    unloaded = model.unload()(input_ids=ids).logits
    return [((each - pretrained).abs().max() / pretrained.std()).item() for each in (adapted, disabled, unloaded)]


for start in ("pissa", "olora", True):
    adapted, disabled, unloaded = differences(start)
    print(f"{start}: adapted {adapted:.1e}, disabled {disabled:.2f}, unloaded {unloaded:.2f}")
    assert adapted < 1e-3, "the behaviour has changed"
    assert min(disabled, unloaded) > 1 if start is not True else disabled == unloaded == 0, "the behaviour has changed"
PYTHON
"$folder/venv/bin/python" "$folder/try.py"
