"""Fine-tune the same model with two optimizers from Python and compare their results.

    python docs/examples/compare_optimizers.py

For each optimizer the script makes a model and a Trainer, fits and validates. Model, task and sizes are arguments of
`compare`, so that others can be tried from a notebook.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from lightning.pytorch import Trainer, seed_everything

from callbacks import TrainingSeconds
from datamodules import GLUEDataModule
from lightning_modules import LinearWithWarmup, Schedule, SequenceClassifier
from optimizers import SaLSA


def compare(
    model: str = "offline:all-MiniLM-L6-v2",
    task_name: str = "sst2",
    max_train_samples: int = 400,
    max_epochs: int = 2,
    pretrained: bool = True,
    tokenizer: str | None = None,
) -> dict[str, dict[str, float]]:
    """Fine-tune with SaLSA and with AdamW; return validation metrics and seconds of training by name."""
    data = GLUEDataModule(
        task_name,
        source="synthetic",
        tokenizer=tokenizer or model,
        max_length=64,
        max_train_samples=max_train_samples,
        max_eval_samples=400,
    )

    # An optimizer is anything that makes one from parameters; a schedule anything that makes one from an optimizer.
    # The schedule's number of steps is filled in by the run.
    candidates: dict[str, tuple[Callable, Schedule | None]] = {
        "SaLSA": (SaLSA, None),
        "AdamW": (partial(torch.optim.AdamW, lr=5e-5), Schedule(partial(LinearWithWarmup, warmup_ratio=0.1))),
    }
    results = {}
    for name, (optimizer, lr_scheduler) in candidates.items():
        seed_everything(0, verbose=False)
        module = SequenceClassifier(
            model,
            num_labels=data.num_labels,
            metrics=data.metrics,
            pretrained=pretrained,
            optimizer=optimizer,
            lr_scheduler=lr_scheduler,
        )
        clock = TrainingSeconds()
        trainer = Trainer(
            max_epochs=max_epochs,
            callbacks=[clock],
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )
        trainer.fit(module, data)
        metrics = {key: float(value) for key, value in trainer.callback_metrics.items() if key.startswith("val/")}
        results[name] = {**metrics, "seconds": clock.seconds}
    return results


if __name__ == "__main__":
    for name, result in compare().items():
        print(name, {key: round(value, 3) for key, value in result.items()})
