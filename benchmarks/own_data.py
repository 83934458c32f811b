"""ParabolicAdam with its defaults beside AdamW at three learning rates, on the user's files.

    python -m benchmarks.own_data banking77/train.csv banking77/test.csv --text text --label category
    python -m benchmarks.own_data emotion/train.parquet emotion/test.parquet --text text --label label
    python -m benchmarks.own_data goemotions/train.jsonl goemotions/test.jsonl --text text --label labels

Every row trains the packaged MiniLM anew on the same rows, chosen at random, and is scored on test rows at its best
validation loss; a tenth of the training rows is held out for validation. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas
import torch
from datasets import Dataset, DatasetDict
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint

from benchmarks import markdown
from callbacks import TrainingSeconds
from datamodules import TextDataModule
from lightning_modules import LinearWithWarmup, Schedule, SequenceClassifier
from optimizers import ParabolicAdam

RATES = (2e-5, 5e-5, 1e-4)
READERS: dict[str, Callable[..., pandas.DataFrame]] = {
    ".csv": pandas.read_csv,
    ".parquet": pandas.read_parquet,
    ".jsonl": partial(pandas.read_json, lines=True),
}


def sampled(file: Path, rows: int) -> Dataset:
    """Return so many rows of a file, chosen at random with seed 0; all of them where there are no more."""
    frame = READERS[file.suffix](file)
    chosen = frame.sample(min(rows, len(frame)), random_state=0).reset_index(drop=True)
    return Dataset.from_pandas(chosen)


def methods() -> dict[str, tuple[Callable[..., torch.optim.Optimizer], Schedule | None]]:
    """Return the rows of the table: how to make the optimizer, and its schedule."""
    schedule = Schedule(partial(LinearWithWarmup, warmup_ratio=0.1))
    adamw = {f"AdamW {rate:g}": (partial(torch.optim.AdamW, lr=rate), schedule) for rate in RATES}
    return {"ParabolicAdam": (ParabolicAdam, None), **adamw}


def train(data: TextDataModule, method: str, epochs: int, folder: Path) -> tuple[dict[str, float], float]:
    """Train with one method, and return its scores and its seconds of training."""
    optimizer, schedule = methods()[method]
    seed_everything(0, verbose=False)
    module = SequenceClassifier(
        num_labels=data.num_labels,
        label_names=data.label_names,
        metrics=data.metrics,
        problem_type=data.problem_type,
        optimizer=optimizer,
        lr_scheduler=schedule,
    )
    clock = TrainingSeconds()
    saver = ModelCheckpoint(folder / method, monitor="val/loss", filename="best")
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(max_epochs=epochs, accelerator="cpu", callbacks=[clock, saver], num_sanity_val_steps=0, **quiet)
    trainer.fit(module, data)
    assert saver.best_model_score is not None
    (scores,) = trainer.test(module, data, ckpt_path=saver.best_model_path, verbose=False)
    return {"val/loss": float(saver.best_model_score), **scores}, clock.seconds


def main(arguments: Sequence[str] | None = None) -> None:
    """Train with every method and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train_file", type=Path)
    parser.add_argument("test_file", type=Path)
    parser.add_argument("--text", required=True, help="column of the texts")
    parser.add_argument("--label", required=True, help="column of the labels")
    parser.add_argument("--train-rows", type=int, default=2000, help="(default: %(default)s)")
    parser.add_argument("--test-rows", type=int, default=1000, help="(default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=3, help="(default: %(default)s)")
    parser.add_argument("--methods", nargs="+", choices=methods(), default=[*methods()], help="(default: all)")
    options = parser.parse_args(arguments)
    for file in (options.train_file, options.test_file):
        if file.suffix not in READERS or not file.is_file():
            parser.error(f"{file}: no such file, or none of {', '.join(READERS)}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        splits = {
            "train": sampled(options.train_file, options.train_rows),
            "test": sampled(options.test_file, options.test_rows),
        }
        DatasetDict(splits).save_to_disk(str(folder / "rows"))
        columns = {"text_columns": options.text, "label_column": options.label, "cache_dir": str(folder / "cache")}
        data = TextDataModule(
            dataset=str(folder / "rows"), tokenizer="offline:all-MiniLM-L6-v2", eval_batch_size=64, **columns
        )
        names = [f"test/{metric}" for metric in data.metrics]
        print(markdown.head(["optimizer", "best val/loss", *names, "seconds"], numbers=True))
        for method in options.methods:
            scores, seconds = train(data, method, options.epochs, folder)
            shown = [f"{scores[name]:.3f}" for name in ("val/loss", *names)]
            print(markdown.row([method, *shown, f"{seconds:.0f}"]), flush=True)


if __name__ == "__main__":
    main()
