#!/usr/bin/env bash
# transformers 5.24.0: a run that saves with `save_only_model=True` can be resumed, and goes on with a schedule that begins anew. The
# step comes from the checkpoint ("to resume from the exact training state", says the log), the rate does not: it warms up a
# second time, and since the steps that are left are fewer than the schedule has, the run ends at a high rate that it never
# takes down. Adam's averages begin anew as well, which one expects of a checkpoint without them.
# Seen, 20 steps, 4 of them warm-up, a highest rate of 1e-3: resumed at step 10 the rate is 0 in place of 6.25e-4 there and 6.9e-4 in
# place of 6.25e-5 in the last step.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "transformers==5.24.0" \
    "accelerate==1.15.0" "numpy==2.4.6"
cat > "$folder/try.py" <<'PYTHON'
import sys

import torch
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainerCallback, TrainingArguments

SIZES = {"vocab_size": 20, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
ROWS = [{"input_ids": [1 + row % 2, 3, 4], "labels": row % 2} for row in range(16)]


class Rates(TrainerCallback):
    def __init__(self):
        self.rates = {}

    def on_step_begin(self, args, state, control, optimizer=None, **others):
        self.rates[state.global_step] = optimizer.param_groups[0]["lr"]


def fit(folder, save_only_model, resume=None):
    torch.manual_seed(0)
    arguments = TrainingArguments(
        folder,
        num_train_epochs=10,
        per_device_train_batch_size=8,
        learning_rate=1e-3,
        warmup_steps=4,
        save_strategy="epoch",
        save_only_model=save_only_model,
        logging_strategy="no",
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
    )
    rates = Rates()
    model = BertForSequenceClassification(BertConfig(**SIZES))
    Trainer(model, arguments, train_dataset=ROWS, callbacks=[rates]).train(resume_from_checkpoint=resume)
    return rates.rates


found = {}
for save_only_model in (False, True):
    folder = f"{sys.argv[1]}/{save_only_model}"
    whole, resumed = fit(folder, save_only_model), fit(folder, save_only_model, f"{folder}/checkpoint-10")
    assert list(resumed) == list(range(10, 20)), "the behaviour has changed"
    found[save_only_model] = resumed
    ends = ", ".join(f"{rates[10]:.2e} at step 10 and {rates[19]:.2e} in the last" for rates in (whole, resumed))
    print(f"save_only_model={save_only_model}, rates of the whole run and of the resumed one: {ends}")
assert all(abs(found[False][step] - whole[step]) < 1e-9 for step in range(10, 20)), "the behaviour has changed"
assert found[True][10] == 0 and found[True][19] > 10 * whole[19], "the behaviour has changed"
PYTHON
"$folder/venv/bin/python" "$folder/try.py" "$folder/out" 2>&1 | grep "save_only_model=\|has changed"
test "${PIPESTATUS[0]}" -eq 0
