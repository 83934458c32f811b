#!/usr/bin/env bash
# transformers 5.24.0 with optuna 5.0.0: `Trainer.hyperparameter_search` returns the run with the lowest accuracy. Where there is a
# `compute_metrics` its objective is the sum of what that returns, and its direction stays "minimize";
# `metric_for_best_model="accuracy"` with `greater_is_better=True` do not change it. Needed is `direction="maximize"`.
# Seen, rates 1e-6 and 1e-2, of which the first learns nothing: the best run is said to be 1e-6 with an objective of 0.5; with
# `direction="maximize"` 1e-2 with 1.0.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "transformers==5.24.0" \
    "accelerate==1.15.0" "numpy==2.4.6" "optuna==5.0.0"
cat > "$folder/try.py" <<'PYTHON'
import sys

import optuna
import torch
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

SIZES = {"vocab_size": 20, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 16}
ROWS = [{"input_ids": [1 + row % 2, 3, 4], "labels": row % 2} for row in range(64)]


def make(trial):
    torch.manual_seed(0)
    return BertForSequenceClassification(BertConfig(**SIZES))


def best(**options):
    arguments = TrainingArguments(
        sys.argv[1],
        num_train_epochs=5,
        eval_strategy="epoch",
        save_strategy="no",
        logging_strategy="no",
        metric_for_best_model="accuracy",
        greater_is_better=True,
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
    )
    trainer = Trainer(
        args=arguments,
        model_init=make,
        train_dataset=ROWS,
        eval_dataset=ROWS,
        compute_metrics=lambda result: {"accuracy": float((result.predictions.argmax(1) == result.label_ids).mean())},
    )
    grid = optuna.samplers.GridSampler({"learning_rate": [1e-6, 1e-2]})
    run = trainer.hyperparameter_search(
        hp_space=lambda trial: {"learning_rate": trial.suggest_categorical("learning_rate", [1e-6, 1e-2])},
        n_trials=2,
        backend="optuna",
        sampler=grid,
        **options,
    )
    return run.hyperparameters["learning_rate"], run.objective


found = {"as it comes": best(), "maximize": best(direction="maximize")}
for name, (rate, objective) in found.items():
    print(f"{name}: best run {rate}, objective {objective}")
assert found["as it comes"] == (1e-6, 0.5) and found["maximize"] == (1e-2, 1.0), "the behaviour has changed"
PYTHON
"$folder/venv/bin/python" "$folder/try.py" "$folder/out" 2>&1 | grep "best run\|has changed"
test "${PIPESTATUS[0]}" -eq 0
