#!/usr/bin/env bash
# sentence-transformers 6.2.0: an epoch with `batch_sampler="no_duplicates"`, the sampler for MultipleNegativesRankingLoss, ends before all rows were
# read where texts recur. A batch has at most as many rows as there are different texts, but the sampler says that it has as many
# batches as full ones would be, and the Trainer stops after that number and calls it an epoch. The learning rate
# has reached 0 by then. Nothing is said; the default sampler reads every row.
# Seen, 1000 texts, each with the name of its one of five topics, batches of 16, one epoch: 63 steps with batches of 5, which is 315 of
# the 1000 rows; the sampler itself has 200 batches or more, of all rows. With the default sampler all 1000 in 63 steps.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    "torch==2.13.0" "sentence-transformers==6.2.0" "transformers==5.24.0" "datasets==5.2.0" "accelerate==1.15.0" "numpy==2.4.6"
cat > "$folder/try.py" <<'PYTHON'
import tempfile
from pathlib import Path

from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.losses import MultipleNegativesRankingLoss
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from transformers import BertConfig, BertModel, BertTokenizerFast

TOPICS = ["sports", "politics", "science", "travel", "music"]


def tiny_bert(folder, words):
    """Save a BERT with random weights and a tokenizer of a few words."""
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    Path(folder, "vocab.txt").write_text("\n".join(tokens), encoding="utf-8")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertModel(BertConfig(vocab_size=len(tokens), **sizes)).save_pretrained(folder)
    BertTokenizerFast(str(Path(folder, "vocab.txt"))).save_pretrained(folder)


class CountedRows(MultipleNegativesRankingLoss):
    """The loss, which counts the rows that it is given."""

    rows = 0

    def forward(self, sentence_features, labels):
        self.rows += len(sentence_features[0]["input_ids"])
        return super().forward(sentence_features, labels)


def train(folder, sampler):
    """Return steps, epochs, trained rows and the last learning rate of one epoch, and the sampler's batches and rows."""
    model = SentenceTransformer(modules=[Transformer(folder), Pooling(16)])
    arguments = SentenceTransformerTrainingArguments(
        tempfile.mkdtemp(dir=folder),
        num_train_epochs=1,
        per_device_train_batch_size=16,
        batch_sampler=sampler,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    )
    pairs = {"text": [f"w{row}" for row in range(1000)], "topic": [TOPICS[row % 5] for row in range(1000)]}
    loss = CountedRows(model)
    trainer = SentenceTransformerTrainer(model=model, args=arguments, train_dataset=Dataset.from_dict(pairs), loss=loss)
    batches = [len(batch) for batch in trainer.get_train_dataloader().batch_sampler]
    trainer.train()
    rates = [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry]
    return trainer.state.global_step, trainer.state.epoch, loss.rows, rates[-1], (len(batches), sum(batches))


with tempfile.TemporaryDirectory() as folder:
    tiny_bert(folder, [*(f"w{row}" for row in range(1000)), *TOPICS])
    found = {sampler: train(folder, sampler) for sampler in ("batch_sampler", "no_duplicates")}
for sampler, (steps, epochs, rows, rate, batches) in found.items():
    print(f"{sampler}: {steps} steps, {epochs} epochs, {rows} rows trained on, last rate {rate:.1e}; batches and their rows {batches}")
assert found["batch_sampler"][:3] == (63, 1.0, 1000), "the setting has changed"
steps, epochs, rows, rate, (batches, of_sampler) = found["no_duplicates"]
assert (steps, epochs) == (63, 1.0) and rows < 400 and rate < 1e-5, "the behaviour has changed"
assert batches >= 200 and of_sampler == 1000, "the behaviour has changed"
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/try.py" 2> "$folder/errors" | grep -v "^{" || { cat "$folder/errors"; exit 1; }
