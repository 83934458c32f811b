"""The runs of `benchmarks.whole_run` with transformers.Trainer, as its users write them.

    python -m benchmarks.transformers_trainer fit --task sst2 --data path/to/SST-2 --model path/to/model --output run
    python -m benchmarks.transformers_trainer predict --data texts.csv --model run/model --output run

It is a program of its own so that a run pays for the imports that it needs itself and for no others.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from datasets import Dataset
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)

# Columns of GLUE's files: the texts, the label.
COLUMNS = {
    "sst2": (["sentence"], "label"),
    "mrpc": (["#1 String", "#2 String"], "Quality"),
    "stsb": (["sentence1", "sentence2"], "score"),
    None: (["text"], "label"),
}


def accuracy(found: Any) -> dict[str, float]:
    """Return the share of right labels."""
    return {"accuracy": float((found.predictions.argmax(-1) == found.label_ids).mean())}


def f1_and_accuracy(found: Any) -> dict[str, float]:
    """Return the F1 score of label 1, and the share of right labels."""
    predicted, labels = found.predictions.argmax(-1), found.label_ids
    hits = int(((predicted == 1) & (labels == 1)).sum())
    return {"f1": 2 * hits / max(1, int((predicted == 1).sum() + (labels == 1).sum()))} | accuracy(found)


def pearson(found: Any) -> dict[str, float]:
    """Return the correlation of scores and labels."""
    return {"pearson": float(np.corrcoef(found.predictions.squeeze(-1), found.label_ids)[0, 1])}


METRICS = {"sst2": accuracy, "mrpc": f1_and_accuracy, "stsb": pearson, None: accuracy}


def read(path: Path, task: str | None) -> Dataset:
    """Return the rows of a file with the columns `texts` (lists of one or two) and `label`."""
    texts, label = COLUMNS[task]
    official: dict[str, Any] = {} if task is None else {"sep": "\t", "quoting": 3, "encoding": "utf-8-sig"}
    table = pd.read_csv(path, keep_default_na=False, **official)
    return Dataset.from_dict({"texts": table[texts].values.tolist(), "label": table[label].tolist()})


def main(arguments: Sequence[str] | None = None) -> None:
    """Fit, evaluate or predict."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", choices=("fit", "validate", "predict"))
    parser.add_argument("--task", choices=[name for name in COLUMNS if name is not None])
    parser.add_argument("--data", type=Path, required=True, help="folder of train.tsv and dev.tsv, or a CSV file")
    parser.add_argument("--model", required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--sampling", default="random", help="train_sampling_strategy")
    parser.add_argument("--bf16", action="store_true")
    options = parser.parse_args(arguments)

    tokenizer = AutoTokenizer.from_pretrained(options.model)
    num_labels = 1 if options.task == "stsb" else 2
    model = AutoModelForSequenceClassification.from_pretrained(options.model, num_labels=num_labels)

    def tokenize(rows: dict[str, list[Any]]) -> Any:
        return tokenizer(*(list(each) for each in zip(*rows["texts"], strict=True)), truncation=True, max_length=128)

    files = ["train.tsv", "dev.tsv"] if options.task else [""]
    splits = [read(options.data / file, options.task) for file in files]
    splits = [each.map(tokenize, batched=True, remove_columns=["texts"]) for each in splits]

    trainer = Trainer(
        model,
        settings_of(options),
        train_dataset=splits[0],
        eval_dataset=splits[-1],
        data_collator=DataCollatorWithPadding(tokenizer),
        processing_class=tokenizer,
        compute_metrics=METRICS[options.task],
    )
    if options.run == "fit":
        trainer.train()
        trainer.save_model(str(options.output / "model"))
        evaluations = [each for each in trainer.state.log_history if "eval_loss" in each]
        print(json.dumps(evaluations[-1]))
    elif options.run == "validate":
        print(json.dumps(trainer.evaluate()))
    else:
        write_predictions(trainer.predict(splits[0]).predictions, options.data, model.config.id2label, options.output)


def settings_of(options: argparse.Namespace) -> TrainingArguments:
    """Return the arguments of the training, alike for all tasks."""
    is_fit = options.run == "fit"
    return TrainingArguments(
        output_dir=str(options.output),
        num_train_epochs=options.epochs,
        per_device_train_batch_size=32,
        per_device_eval_batch_size=32,
        learning_rate=5e-5,
        weight_decay=0.01,
        lr_scheduler_type="linear",
        warmup_steps=0.1,
        max_grad_norm=0.0,
        train_sampling_strategy=options.sampling,
        bf16=options.bf16,
        use_cpu=True,
        logging_steps=1,
        report_to="tensorboard" if is_fit else "none",
        eval_strategy="epoch" if is_fit else "no",
        save_strategy="epoch" if is_fit else "no",
        save_total_limit=1,
        load_best_model_at_end=is_fit,
        metric_for_best_model="eval_loss",
        seed=options.seed,
        dataloader_pin_memory=False,
    )


def write_predictions(logits: Any, rows: Path, names: Mapping[int, str], folder: Path) -> None:
    """Write rows with their prediction and the probabilities of both labels beside them."""
    shares = np.exp(logits - logits.max(-1, keepdims=True))
    table = pd.read_csv(rows, keep_default_na=False)
    table["prediction"] = [names[each] for each in logits.argmax(-1)]
    table[["probability_0", "probability_1"]] = shares / shares.sum(-1, keepdims=True)
    table.to_csv(folder / "predictions.csv", index=False)


if __name__ == "__main__":
    main()
