#!/usr/bin/env bash
# transformers 5.23.0: with `bf16_full_eval=True` (or `fp16_full_eval`), which "only applies during evaluation", `Trainer.evaluate` and
# `predict` convert the model itself and leave it so. A score before training, as a baseline, makes the training that follows one
# of bfloat16 weights, without a word: at a fine-tuning rate most updates round to nothing. What is trained and saved after an
# evaluation is rounded too. Evaluations within `train` are not converted.
# Seen, six steps at 1e-5: 0.00 of the weights of a layer are as before where training comes first, 0.86 where an evaluation does.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    "torch==2.13.0" "transformers==5.23.0" "accelerate==1.15.0" "numpy==2.4.6"
cat > "$folder/try.py" <<'PYTHON'
import sys

import torch
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
draw = torch.Generator().manual_seed(0)
rows = [{"input_ids": torch.randint(1, 100, (6,), generator=draw), "labels": place % 3} for place in range(48)]


def unmoved(evaluated_first):
    torch.manual_seed(0)
    model = BertForSequenceClassification(BertConfig(vocab_size=100, num_labels=3, **small))
    arguments = TrainingArguments(
        output_dir=sys.argv[1], per_device_train_batch_size=8, max_steps=6, learning_rate=1e-5, lr_scheduler_type="constant",
        bf16_full_eval=True, save_strategy="no", logging_strategy="no", use_cpu=True, report_to="none", disable_tqdm=True,
    )
    trainer = Trainer(model, arguments, train_dataset=rows, eval_dataset=rows)
    if evaluated_first:
        trainer.evaluate()
    weight = model.bert.encoder.layer[0].intermediate.dense.weight
    start = weight.detach().clone()
    trainer.train()
    return weight.dtype, float((weight == start).float().mean())


found = {first: unmoved(first) for first in (False, True)}
for first, (dtype, share) in found.items():
    print(f"{'evaluated' if first else 'not evaluated'} before training: {dtype}, {share:.2f} of the weights as before")
assert found[False][0] is torch.float32 and found[False][1] < 0.1, "the behaviour has changed"
assert found[True][0] is torch.bfloat16 and found[True][1] > 0.6, "the behaviour has changed"
PYTHON
"$folder/venv/bin/python" "$folder/try.py" "$folder/run" 2> "$folder/log" || { cat "$folder/log"; exit 1; }
