#!/usr/bin/env bash
# peft 0.21.2: `create_loraplus_optimizer` is said to give LoRA's B matrices a higher rate. It gives it to every vector that
# trains as well: the bias of a new classifier learns sixteen times as fast as its weights, and with `bias="all"` so do all
# biases of the pretrained model, norms' included.
# Seen, lr 1e-4, ratio 16: lora_A and classifier.weight 1e-4; lora_B, classifier.bias and, with bias="all", the ten
# biases of the pretrained model 1.6e-3.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "transformers==5.23.0" "peft==0.21.2" "numpy==2.4.6"
cat > "$folder/try.py" <<'PYTHON'
import torch
from peft import LoraConfig, get_peft_model
from peft.optimizers import create_loraplus_optimizer
from transformers import BertConfig, BertForSequenceClassification

SIZES = {"vocab_size": 20, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}


def rates(bias):
    config = LoraConfig(task_type="SEQ_CLS", r=2, bias=bias, target_modules=["query", "value"])
    model = get_peft_model(BertForSequenceClassification(BertConfig(**SIZES)), config)
    optimizer = create_loraplus_optimizer(model, torch.optim.AdamW, lr=1e-4, loraplus_lr_ratio=16)
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {names[parameter]: group["lr"] for group in optimizer.param_groups for parameter in group["params"]}


by_kind = {}
for bias in ("none", "all"):
    found = rates(bias)
    kinds = {
        "lora_A": [rate for name, rate in found.items() if "lora_A" in name],
        "lora_B": [rate for name, rate in found.items() if "lora_B" in name],
        "classifier.weight": [rate for name, rate in found.items() if "classifier" in name and name.endswith("weight")],
        "classifier.bias": [rate for name, rate in found.items() if "classifier" in name and name.endswith("bias")],
        "other biases": [rate for name, rate in found.items() if "classifier" not in name and name.endswith("bias")],
    }
    by_kind[bias] = {kind: sorted({round(rate, 6) for rate in of_kind}) for kind, of_kind in kinds.items()}
    print(f"bias={bias}: {by_kind[bias]}, {len(kinds['other biases'])} other biases")
expected = {"lora_A": [1e-4], "lora_B": [1.6e-3], "classifier.weight": [1e-4], "classifier.bias": [1.6e-3]}
assert by_kind["none"] == {**expected, "other biases": []}, "the behaviour has changed"
assert by_kind["all"] == {**expected, "other biases": [1.6e-3]}, "the behaviour has changed"
PYTHON
"$folder/venv/bin/python" "$folder/try.py"
