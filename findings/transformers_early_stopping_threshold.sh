#!/usr/bin/env bash
# transformers 5.24.0: EarlyStoppingCallback stops a run that gets better at every evaluation, if each time by less than
# `early_stopping_threshold`. It compares with the best score so far, which the Trainer raises by any gain, so that small gains
# never add up; lightning's EarlyStopping (`min_delta`) and torch's ReduceLROnPlateau compare with the last score
# that was better by the threshold, and go on.
# Seen, an accuracy that rises by 0.004 in each of 30 epochs, a threshold of 0.005, a patience of 3: stopped after epoch 4 at 0.512; in
# ReduceLROnPlateau with the same threshold and patience no reduction in 30 epochs, up to 0.616.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "transformers==5.24.0" \
    "accelerate==1.15.0" "numpy==2.4.6"
cat > "$folder/try.py" <<'PYTHON'
import sys

import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau
from transformers import BertConfig, BertForSequenceClassification, EarlyStoppingCallback, Trainer, TrainingArguments

SIZES = {"vocab_size": 20, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
ROWS = [{"input_ids": [1 + row % 2, 3, 4], "labels": row % 2} for row in range(8)]
ACCURACIES = [0.5 + 0.004 * epoch for epoch in range(30)]

torch.manual_seed(0)
given = iter(ACCURACIES)  # given, so that it rises in every epoch
arguments = TrainingArguments(
    sys.argv[1],
    num_train_epochs=30,
    eval_strategy="epoch",
    save_strategy="epoch",
    save_total_limit=1,
    load_best_model_at_end=True,
    metric_for_best_model="accuracy",
    greater_is_better=True,
    logging_strategy="no",
    use_cpu=True,
    report_to="none",
    disable_tqdm=True,
)
trainer = Trainer(
    BertForSequenceClassification(BertConfig(**SIZES)),
    arguments,
    train_dataset=ROWS,
    eval_dataset=ROWS,
    compute_metrics=lambda predictions: {"accuracy": next(given)},
    callbacks=[EarlyStoppingCallback(early_stopping_patience=3, early_stopping_threshold=0.005)],
)
trainer.train()

optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
plateau = ReduceLROnPlateau(optimizer, mode="max", patience=3, threshold=0.005, threshold_mode="abs")
for accuracy in ACCURACIES:
    plateau.step(accuracy)
rate = optimizer.param_groups[0]["lr"]
print(f"early stopping: epoch {trainer.state.epoch:.0f}, best {trainer.state.best_metric}; plateau: rate {rate} after 30 epochs")
assert trainer.state.epoch == 4 and trainer.state.best_metric == 0.512 and rate == 1.0, "the behaviour has changed"
PYTHON
"$folder/venv/bin/python" "$folder/try.py" "$folder/out" 2>&1 | grep "early stopping:\|has changed"
test "${PIPESTATUS[0]}" -eq 0
