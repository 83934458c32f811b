#!/usr/bin/env bash
# sentence-transformers 6.2.0: `train(resume_from_checkpoint=...)` goes on with a new classifier in SoftmaxLoss. Its trainer
# trains the weights of a loss, and saves those of the model alone: the loss goes up to that of a model that knows no label, and
# for a while the encoder is trained towards random directions, with AdamW's averages of the old classifier. The optimizer's
# state is there, so that nothing is missing and nothing is said. So it is for any loss with weights. That SoftmaxLoss is not
# stored beside a model is known (huggingface/sentence-transformers issues 27 and 189, of 2019 and 2020), as something for
# training alone.
# Seen, six epochs, losses twice in each: 0.70 at the end of the third; then 0.60 in the run that was not interrupted, and 1.06
# in one that was resumed there.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    "torch==2.13.0" "sentence-transformers==6.2.0" "transformers==5.24.0" "datasets==5.2.0" "accelerate==1.15.0" "numpy==2.4.6"
cat > "$folder/try.py" <<'PYTHON'
import os
import random
import tempfile
from pathlib import Path

import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.losses import SoftmaxLoss
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from transformers import BertConfig, BertModel, BertTokenizerFast


def tiny_bert(folder, words, kind, **options):
    """Save a BERT with random weights and a tokenizer of a few words."""
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{number}" for number in range(words))]
    Path(folder, "vocab.txt").write_text("\n".join(tokens), encoding="utf-8")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    kind(BertConfig(vocab_size=len(tokens), **sizes, **options)).save_pretrained(folder)
    BertTokenizerFast(str(Path(folder, "vocab.txt"))).save_pretrained(folder)


def pairs():
    """Return 200 pairs of words with one of three labels that their numbers decide."""
    draw = random.Random(0)
    rows = [(draw.randrange(40), draw.randrange(3)) for _ in range(200)]
    second = [f"w{(number + (0, 20, 7)[label]) % 40}" for number, label in rows]
    first, labels = zip(*((f"w{number}", label) for number, label in rows))
    return Dataset.from_dict({"first": first, "second": second, "label": labels})


def losses(folder, output, resume=None):
    torch.manual_seed(8 if resume else 7)
    model = SentenceTransformer(modules=[Transformer(folder), Pooling(32)])
    arguments = SentenceTransformerTrainingArguments(
        output,
        num_train_epochs=6,
        per_device_train_batch_size=20,
        learning_rate=5e-3,
        lr_scheduler_type="constant",
        logging_steps=5,
        save_strategy="epoch",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    )
    loss = SoftmaxLoss(model, 32, num_labels=3)
    trainer = SentenceTransformerTrainer(model=model, args=arguments, train_dataset=pairs(), loss=loss)
    trainer.train(resume_from_checkpoint=resume)
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


folder, output = tempfile.mkdtemp(), tempfile.mkdtemp()
tiny_bert(folder, 40, BertModel)
whole = losses(folder, output)
resumed = losses(folder, output, resume=os.path.join(output, "checkpoint-30"))
print(f"uninterrupted: {[round(loss, 2) for loss in whole]}")
print(f"resumed after three epochs: {[round(loss, 2) for loss in resumed]}")
assert resumed[:6] == whole[:6] and whole[6] < whole[5], "the setting has changed"
assert resumed[6] > whole[5] + 0.2, "the behaviour has changed"
PYTHON
"$folder/venv/bin/python" "$folder/try.py"
