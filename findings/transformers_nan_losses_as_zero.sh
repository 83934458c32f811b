#!/usr/bin/env bash
# transformers 5.24.0: a run whose loss is NaN from the first step on is logged with a loss of 0, and ends with a `train_loss` of 0.
# `logging_nan_inf_filter`, on by default, puts the mean of the losses since the last log in the place of a NaN, and where all are NaN
# that is 0: in a table of runs the broken one is the best. It filters evaluations, too: `eval_loss` is the mean of the batches that
# are not NaN, and by it `load_best_model_at_end` takes a model that fails on all batches but one. With `logging_nan_inf_filter=False`
# all are NaN.
# Seen: a head with one NaN is logged as 0.0 three times, `train_loss` 0.0; a model that is NaN for 7 of 8 batches has an `eval_loss` of 0.69.
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
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

SIZES = {"vocab_size": 20, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 16}
ROWS = [{"input_ids": [1 + row % 2, 3, 4], "labels": row % 2} for row in range(64)]
WITHOUT_A_NAN = [{"input_ids": [5, 5, 5], "labels": 0}] * 8


def make():
    torch.manual_seed(0)
    return BertForSequenceClassification(BertConfig(**SIZES))


def trainer(model, filtered):
    arguments = TrainingArguments(
        sys.argv[1],
        max_steps=6,
        logging_steps=2,
        logging_nan_inf_filter=filtered,
        save_strategy="no",
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
    )
    return Trainer(model=model, args=arguments, train_dataset=ROWS, eval_dataset=WITHOUT_A_NAN + ROWS[:56])


found = {}
for filtered in (True, False):
    broken = make()
    with torch.no_grad():
        broken.classifier.weight[0, 0] = float("nan")
    run = trainer(broken, filtered)
    final = run.train().metrics["train_loss"]
    logged = [entry["loss"] for entry in run.state.log_history if "loss" in entry]
    partly = make()
    with torch.no_grad():
        partly.bert.embeddings.word_embeddings.weight[1:3] = float("nan")
    evaluated = trainer(partly, filtered).evaluate()["eval_loss"]
    print(f"logging_nan_inf_filter={filtered}: logged {logged}, train_loss {final}, eval_loss with 7 of 8 batches NaN {evaluated:.2f}")
    found[filtered] = [*map(float, logged), final, evaluated]
assert found[True][:-1] == [0.0] * 4 and 0.4 < found[True][-1] < 1, "the behaviour has changed"
assert all(math.isnan(value) for value in found[False]), "the behaviour has changed"
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/try.py" "$folder/out" 2>&1 | grep "^logging_nan\|has changed\|Error"
test "${PIPESTATUS[0]}" -eq 0
