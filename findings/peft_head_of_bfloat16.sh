#!/usr/bin/env bash
# peft 0.21.2 with transformers 5.24.0: of what trains on a model in bfloat16, adapters are made float32, and a new head stays
# bfloat16. LoRA with the task type SEQ_CLS trains a copy of the head, as `modules_to_save` always are copies in the precision
# of the model; steps of fine-tuning are less than half of the distance to the next bfloat16 and are rounded away, most of all
# where weights are large. transformers loads a checkpoint in the precision it was saved in, which is bfloat16 for most
# decoders, so that nobody has to ask for it. `dtype=torch.float32`, or a head that is converted before `get_peft_model`, is
# right.
# Seen, a Llama saved in bfloat16, 50 steps of AdamW at 2e-5: LoRA is float32 and all of its A have moved; the head is bfloat16,
# 0.72 of its weights are as before; loaded in float32 all have moved.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "transformers==5.24.0" "peft==0.21.2" "numpy==2.4.6"
cat > "$folder/try.py" <<'PYTHON'
import tempfile

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForSequenceClassification, LlamaConfig, LlamaModel

SIZES = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
folder = tempfile.mkdtemp()
torch.manual_seed(0)
LlamaModel(LlamaConfig(**SIZES, pad_token_id=0)).to(torch.bfloat16).save_pretrained(folder)


def train(**precision):
    """Return the types of LoRA's A and of the head, and the shares of their weights that are as before training."""
    torch.manual_seed(0)
    original = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2, **precision)
    config = LoraConfig(task_type="SEQ_CLS", r=4, target_modules=["q_proj", "v_proj"])
    model = get_peft_model(original, config)
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    down = next(weight for name, weight in trained.items() if "lora_A" in name)
    head = next(weight for name, weight in trained.items() if "score" in name)
    before = down.detach().clone(), head.detach().clone()
    optimizer = torch.optim.AdamW(trained.values(), lr=2e-5, weight_decay=0.0)
    ids = torch.randint(1, 50, (16, 9))
    labels = (ids[:, 0] > 25).long()
    for _ in range(50):
        optimizer.zero_grad()
        model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
    still = [(now == then).float().mean().item() for now, then in zip((down, head), before)]
    return down.dtype, head.dtype, *still


for name, precision in (("as saved", {}), ("float32", {"dtype": torch.float32})):
    down, head, still_down, still_head = train(**precision)
    print(f"{name}: LoRA {down}, {still_down:.2f} as before; head {head}, {still_head:.2f} as before")
    assert down == torch.float32 and still_down < 0.05, "the behaviour has changed"
    assert (head == torch.bfloat16) == (not precision), "the behaviour has changed"
    assert still_head > 0.3 if not precision else still_head < 0.05, "the behaviour has changed"
PYTHON
"$folder/venv/bin/python" "$folder/try.py"
