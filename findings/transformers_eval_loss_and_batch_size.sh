#!/usr/bin/env bash
# transformers 5.24.0: `eval_loss` of a language model depends on the size of the evaluation's batches, and on the order of its texts.
# Within a batch the loss is a mean over tokens, between batches a mean over texts: with batches of one text a text of 4 tokens
# counts as much as one of 60, with all texts in one batch by a twentieth of it. Perplexities that were computed with different
# batch sizes, or on another number of devices, cannot be compared, and the best checkpoint can be another one. Training, since
# the repair of accumulation, is a mean over tokens. Known: huggingface/transformers issue 39241, open since 2025.
# Seen, 20 texts of 4 tokens that are noise, then 20 of 60 that have been learned, Llama: in batches of 1, 8, 16 and 40 `eval_loss` is
# 3.59, 3.07, 3.05 and 0.35 (perplexities of 36.2, 21.5, 21.1 and 1.4); the mean over all tokens is 0.35.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "transformers==5.24.0" \
    "accelerate==1.15.0" "numpy==2.4.6"
cat > "$folder/try.py" <<'PYTHON'
import math
import sys

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

torch.manual_seed(1)
NOISE = [torch.randint(1, 100, (4,)) for _ in range(20)]
LEARNED = [torch.arange(60) % 5 + 1 for _ in range(20)]
ROWS = [{"input_ids": text} for text in NOISE + LEARNED]


def collate(rows):
    texts = [row["input_ids"] for row in rows]
    labels = pad_sequence(texts, batch_first=True, padding_value=-100)
    return {"input_ids": labels.clamp(min=0), "labels": labels, "attention_mask": (labels >= 0).long()}


torch.manual_seed(0)
sizes = {"vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
model = LlamaForCausalLM(LlamaConfig(**sizes))
optimizer = torch.optim.Adam(model.parameters(), 1e-2)
for _ in range(40):
    optimizer.zero_grad()
    model(**collate(ROWS[20:])).loss.backward()
    optimizer.step()
model.eval()
total, count = 0.0, 0
with torch.no_grad():
    for row in ROWS:
        predicted = len(row["input_ids"]) - 1
        total += predicted * model(**collate([row])).loss.item()
        count += predicted
exact = total / count

found = {}
for size in (1, 8, 16, 40):
    arguments = TrainingArguments(sys.argv[1], per_device_eval_batch_size=size, use_cpu=True, report_to="none", disable_tqdm=True)
    found[size] = Trainer(model=model, args=arguments, eval_dataset=ROWS, data_collator=collate).evaluate()["eval_loss"]
    print(f"batches of {size}: eval_loss {found[size]:.3f}, perplexity {math.exp(found[size]):.1f}")
print(f"eval_loss over all tokens: {exact:.3f}")
assert abs(found[40] - exact) < 1e-3 and found[1] > 5 * exact and found[16] > 5 * exact, "the behaviour has changed"
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/try.py" "$folder/out" 2>&1 | grep "eval_loss [0-9o]\|has changed"
test "${PIPESTATUS[0]}" -eq 0
