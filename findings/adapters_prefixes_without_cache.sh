#!/usr/bin/env bash
# adapters 1.3.0 with transformers 4.57.6: a prefix is not trained on a decoder under gradient checkpointing. The keys and values of a prefix get
# into the attention of Llama, Mistral and GPT-2 with what the model caches; checkpointing turns the cache off, and the prefix is left
# out of every forward pass. The loss is that of the model without it, its gradient is zero, the head trains, and the run looks right. At
# the evaluation, where there is a cache, the prefix is back as it was drawn. `use_cache=False` does the same at any time. BERT takes prefixes another
# way, and LoRA needs no cache: both are right.
# Seen, AdapterTrainer at 1e-2, five steps: a prefix on Llama moves by 0.03, and by 0 with `gradient_checkpointing=True`, its loss with
# `use_cache=False` is that of the bare model to the last bit; a prefix on BERT and LoRA on Llama move either way.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "adapters==1.3.0" "transformers==4.57.6" \
    "accelerate==1.15.0" "numpy==2.4.6"
cat > "$folder/try.py" <<'PYTHON'
import logging
import tempfile

import adapters
import torch
from adapters import AdapterTrainer
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    TrainingArguments,
)

logging.disable(logging.WARNING)
SIZES = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
TEXTS = torch.randint(5, 64, (40, 10), generator=torch.Generator().manual_seed(1))
ROWS = [{"input_ids": text, "labels": torch.tensor(row % 2)} for row, text in enumerate(TEXTS)]


def make(kind, method):
    torch.manual_seed(0)
    if kind == "Llama":
        model = LlamaForSequenceClassification(LlamaConfig(**SIZES, pad_token_id=0))
    else:
        model = BertForSequenceClassification(BertConfig(**SIZES))
    adapters.init(model)
    if method is not None:
        model.add_adapter("task", config=method)
        model.train_adapter("task")
    return model


def moved(kind, method, checkpointing):
    """Return how far five steps move the adapter at most, and the head."""
    model = make(kind, method)
    start = {name: weight.detach().clone() for name, weight in model.named_parameters() if weight.requires_grad}
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            max_steps=5,
            per_device_train_batch_size=8,
            learning_rate=1e-2,
            gradient_checkpointing=checkpointing,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
        )
        AdapterTrainer(model, arguments, train_dataset=ROWS).train()
    moves = {name: (weight - start[name]).abs().max().item() for name, weight in model.named_parameters() if name in start}
    heads = [move for name, move in moves.items() if name.startswith(("score", "classifier"))]
    return max(move for name, move in moves.items() if not name.startswith(("score", "classifier"))), max(heads)


def loss(model, **options):
    labels = torch.stack([row["labels"] for row in ROWS])
    with torch.no_grad():
        return model.eval()(TEXTS, labels=labels, **options).loss.item()


found = {}
for kind, method in (("Llama", "prefix_tuning"), ("Llama", "lora"), ("BERT", "prefix_tuning")):
    for checkpointing in (False, True):
        found[kind, method, checkpointing] = adapter, head = moved(kind, method, checkpointing)
        print(f"{kind}, {method}, checkpointing {checkpointing}: the adapter moves by {adapter:.3f}, the head by {head:.3f}")
prefixed, bare = make("Llama", "prefix_tuning"), make("Llama", None)
losses = {"bare": loss(bare), "prefix": loss(prefixed), "prefix without cache": loss(prefixed, use_cache=False)}
print(losses)
assert all(head > 0.01 for _, head in found.values()), "the setting has changed"
still = [case for case, (adapter, _) in found.items() if adapter == 0]
assert still == [("Llama", "prefix_tuning", True)], "the behaviour has changed"
assert losses["prefix without cache"] == losses["bare"] != losses["prefix"], "the behaviour has changed"
PYTHON
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" -W ignore "$folder/try.py" 2> "$folder/errors" | grep -v "^{'train" || { cat "$folder/errors"; exit 1; }
