#!/usr/bin/env bash
# transformers 5.23.0: with `train_sampling_strategy="group_by_length"`, which is about training by its name and its help text,
# `Trainer.predict` groups the rows that it predicts by length too, and returns predictions and labels in that order. Whoever puts
# the predictions beside the rows (a column of a table, a submission) gives them to other rows, without a word. Metrics do not
# show it, since labels are moved along.
# Seen: 64 rows of different lengths; in the rows' order with "random", in another one with "group_by_length".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    "torch==2.13.0" "transformers==5.23.0" "accelerate==1.15.0" "datasets>=4"
cat > "$folder/try.py" <<'PYTHON'
import sys

import numpy
import torch
from datasets import Dataset
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

torch.manual_seed(0)
config = BertConfig(
    vocab_size=100, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, num_labels=2
)
model = BertForSequenceClassification(config).eval()
lengths = [3 + (7 * row) % 29 for row in range(64)]
rows = [{"input_ids": torch.randint(5, 100, (length,)).tolist(), "labels": 0} for length in lengths]


def collate(batch):
    width = max(len(row["input_ids"]) for row in batch)
    padded = [(row["input_ids"] + [0] * width)[:width] for row in batch]
    mask = [[float(place < len(row["input_ids"])) for place in range(width)] for row in batch]
    return {
        "input_ids": torch.tensor(padded),
        "attention_mask": torch.tensor(mask),
        "labels": torch.tensor([row["labels"] for row in batch]),
    }


with torch.no_grad():
    by_row = torch.cat([model(input_ids=torch.tensor([row["input_ids"]])).logits for row in rows]).numpy()
in_order = {}
for strategy in ("random", "group_by_length"):
    arguments = TrainingArguments(
        output_dir=sys.argv[1],
        train_sampling_strategy=strategy,
        per_device_eval_batch_size=8,
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
    )
    found = Trainer(model, arguments, data_collator=collate).predict(Dataset.from_list(rows)).predictions
    in_order[strategy] = bool(numpy.allclose(found, by_row, atol=1e-5))
    same = {tuple(numpy.round(row, 4)) for row in found} == {tuple(numpy.round(row, 4)) for row in by_row}
    print(f"{strategy}: in the rows' order: {in_order[strategy]}; the same predictions in some order: {same}")
assert in_order == {"random": True, "group_by_length": False}, "the behaviour has changed"
PYTHON
"$folder/venv/bin/python" "$folder/try.py" "$folder/run" 2> "$folder/log" || { cat "$folder/log"; exit 1; }
