#!/usr/bin/env bash
# transformers 5.24.0: `dataloader_drop_last=True`, meant for even batches in training, drops the last incomplete batch of evaluations and
# predictions too. Scores leave those rows out, always the same ones since nothing is shuffled, and `predict` returns fewer
# predictions than rows, without a word.
# Seen, 10 rows and a batch size of 8: 8 predictions; an accuracy of 1.0 where the two last rows are wrong and it is 0.8.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "transformers==5.24.0" \
    "accelerate==1.15.0" "numpy==2.4.6"
cat > "$folder/try.py" <<'PYTHON'
import sys

import torch
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

SIZES = {"vocab_size": 20, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}


def accuracy(predictions):
    return {"accuracy": float((predictions.predictions.argmax(1) == predictions.label_ids).mean())}


def scored(drop_last):
    torch.manual_seed(0)
    model = BertForSequenceClassification(BertConfig(**SIZES))
    torch.nn.init.zeros_(model.classifier.weight)
    model.classifier.bias.data = torch.tensor([1.0, 0.0])  # predicts class 0
    arguments = TrainingArguments(
        sys.argv[1], per_device_eval_batch_size=8, dataloader_drop_last=drop_last, use_cpu=True, report_to="none", disable_tqdm=True
    )
    rows = [{"input_ids": [1, 2, 3], "labels": int(row >= 8)} for row in range(10)]
    trainer = Trainer(model, arguments, eval_dataset=rows, compute_metrics=accuracy)
    return trainer.evaluate()["eval_accuracy"], len(trainer.predict(rows).predictions)


found = {drop_last: scored(drop_last) for drop_last in (False, True)}
for drop_last, (score, count) in found.items():
    print(f"drop_last={drop_last}: accuracy {score}, {count} predictions for 10 rows")
assert found[False] == (0.8, 10) and found[True] == (1.0, 8), "the behaviour has changed"
PYTHON
"$folder/venv/bin/python" "$folder/try.py" "$folder/out" 2>&1 | grep "drop_last=\|has changed"
test "${PIPESTATUS[0]}" -eq 0
