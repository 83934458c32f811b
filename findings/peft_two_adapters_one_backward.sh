#!/usr/bin/env bash
# peft 0.21.2: two adapters that are trained by one loss, as those of questions and documents in a retriever: the first gets no gradient.
# `set_adapter` turns `requires_grad` off for every adapter but the one that it selects, and a backward pass reads that when it
# ends, for outputs too that were computed before. The loss falls, by the second adapter alone, and nothing is said. With a
# backward pass before each `set_adapter`, or with `set_requires_grad` of both after the last one, both are trained. Asked in 2024
# (huggingface/transformers issue 32084).
# Seen, LoRA "questions" and "documents" on a BERT, one contrastive loss of the two, AdamW at 1e-2, 30 steps: 0 of 8 matrices of "questions"
# moved, 8 of 8 of "documents"; with `set_requires_grad` 8 and 8, and a loss of 3.40 in place of 3.93.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "transformers==5.24.0" "peft==0.21.2" \
    "accelerate==1.15.0" "numpy==2.4.6"
cat > "$folder/try.py" <<'PYTHON'
import torch
from peft import LoraConfig, get_peft_model
from transformers import BertConfig, BertModel

SIZES = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
QUESTIONS, DOCUMENTS = torch.randint(0, 64, (2, 16, 8), generator=torch.Generator().manual_seed(1))


def train(restore):
    """Return the losses and how many matrices of each adapter 30 steps have moved."""
    torch.manual_seed(0)
    config = LoraConfig(r=4, target_modules=["query", "value"])
    model = get_peft_model(BertModel(BertConfig(**SIZES)), config, adapter_name="questions")
    model.add_adapter("documents", config)
    adapters = {name: weight for name, weight in model.named_parameters() if "lora_" in name}
    start = {name: weight.detach().clone() for name, weight in adapters.items()}
    optimizer, losses = torch.optim.AdamW(adapters.values(), lr=1e-2, weight_decay=0.0), []
    for _ in range(30):
        model.set_adapter("questions")
        questions = model(input_ids=QUESTIONS).last_hidden_state[:, 0]
        model.set_adapter("documents")
        documents = model(input_ids=DOCUMENTS).last_hidden_state[:, 0]
        if restore:
            model.set_requires_grad(["questions", "documents"])
        loss = torch.nn.functional.cross_entropy(questions @ documents.T, torch.arange(16))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    moved = [name for name, weight in adapters.items() if not torch.equal(weight, start[name])]
    return losses, [sum(f".{adapter}." in name for name in moved) for adapter in ("questions", "documents")]


as_is, moved = train(restore=False)
restored, both_moved = train(restore=True)
print(f"set_adapter twice: loss {as_is[0]:.2f} to {as_is[-1]:.2f}, matrices moved (questions, documents) {moved}")
print(f"set_requires_grad before the backward pass: {restored[0]:.2f} to {restored[-1]:.2f}, {both_moved}")
assert both_moved == [8, 8], "the setting has changed"
assert moved == [0, 8] and as_is[-1] < as_is[0], "the behaviour has changed"
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/try.py" 2> "$folder/errors" || { cat "$folder/errors"; exit 1; }
