#!/usr/bin/env bash
# transformers 5.23.0: with `metric_for_best_model="accuracy"` and `greater_is_better=True` the Trainer keeps the checkpoint of
# the highest accuracy, and gives this accuracy to the schedule `reduce_lr_on_plateau`, whose `mode` stays torch's "min": the
# rate is divided by ten after each validation that is better than the first one. Nothing is said.
# Seen, rate 1e-4, patience 0, accuracies from 0.5 to 0.8 that rise in every epoch: after four epochs the rate is 1e-7 and the
# best accuracy 0.8; with `lr_scheduler_kwargs={"mode": "max"}` it stays 1e-4.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "transformers==5.23.0" \
    "accelerate==1.15.0" "numpy==2.4.6"
cat > "$folder/try.py" <<'PYTHON'
import sys

import torch
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

SIZES = {"vocab_size": 20, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
ROWS = [{"input_ids": [1 + row % 2, 3, 4], "labels": row % 2} for row in range(16)]


def fit(**options):
    torch.manual_seed(0)
    accuracies = iter([0.5, 0.6, 0.7, 0.8])
    arguments = TrainingArguments(
        sys.argv[1],
        num_train_epochs=4,
        learning_rate=1e-4,
        lr_scheduler_type="reduce_lr_on_plateau",
        lr_scheduler_kwargs={"patience": 0, **options},
        metric_for_best_model="accuracy",
        greater_is_better=True,
        load_best_model_at_end=True,
        eval_strategy="epoch",
        save_strategy="epoch",
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        logging_strategy="no",
    )
    trainer = Trainer(
        BertForSequenceClassification(BertConfig(**SIZES)),
        arguments,
        train_dataset=ROWS,
        eval_dataset=ROWS,
        compute_metrics=lambda predictions: {"accuracy": next(accuracies)},  # given, so that it rises in every epoch
    )
    trainer.train()
    return float(f"{trainer.optimizer.param_groups[0]['lr']:.3g}"), trainer.state.best_metric


found = {"as it comes": fit(), "mode max": fit(mode="max")}
for name, (rate, best) in found.items():
    print(f"{name}: best accuracy {best}, rate 0.0001 at the start and {rate} at the end")
assert found["as it comes"] == (1e-7, 0.8) and found["mode max"] == (1e-4, 0.8), "the behaviour has changed"
PYTHON
"$folder/venv/bin/python" "$folder/try.py" "$folder/out" 2>&1 | grep "best accuracy\|has changed"
test "${PIPESTATUS[0]}" -eq 0
