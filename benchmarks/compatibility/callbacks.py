"""Every callback that Lightning ships, given to the command line in a small run.

    python -m benchmarks.compatibility.callbacks > docs/compatibility_callbacks.md

Takes some minutes.
"""

from __future__ import annotations

import argparse
import contextlib
import inspect
import io
import json
import sys
import tempfile
import warnings
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import transformers
from lightning.pytorch import callbacks as shipped

import cli

CALLBACKS = sorted(name for name in shipped.__all__ if inspect.isclass(getattr(shipped, name)))
# Arguments without a default, and such as make a callback act in a short run.
ARGUMENTS: dict[str, dict[str, Any]] = {
    "BackboneFinetuning": {"unfreeze_backbone_at_epoch": 1},
    "BatchSizeFinder": {"max_trials": 2, "steps_per_trial": 1},
    "EarlyStopping": {"monitor": "val/loss"},
    "GradientAccumulationScheduler": {"scheduling": {0: 2}},
    "LearningRateFinder": {"num_training_steps": 12},
    "ModelCheckpoint": {"monitor": "val/loss"},
    "ModelPruning": {"pruning_fn": "l1_unstructured", "amount": 0.1},
    "OnExceptionCheckpoint": {"dirpath": "FOLDER"},
    "StochasticWeightAveraging": {"swa_lrs": 1e-2},
    "Timer": {"duration": "00:01:00:00"},
}
SEARCH = "optimizers.SaLSA"
# These set a learning rate, which a search refuses; they are tried with an optimizer that has one as well.
FOR_RATES = ("LearningRateFinder", "StochasticWeightAveraging")
OPTIMIZERS = {
    SEARCH: ["--model.optimizer", "optimizers.SaLSA"],
    "torch.optim.AdamW": ["--model.optimizer", "torch.optim.AdamW", "--model.optimizer.init_args.lr", "1e-3"],
}


def save_model(folder: str) -> str:
    """Save the configuration of a tiny BERT with the packaged tokenizer's vocabulary; return the folder."""
    transformers.BertConfig(
        vocab_size=30522,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=128,
    ).save_pretrained(folder)
    return folder


def outcome(name: str, optimizer: str) -> str:
    """Return ``works``, or the line that a run with the callback is refused with.

    Args:
        name: A callback of Lightning.
        optimizer: A key of :data:`OPTIMIZERS`.
    """
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        arguments = {key: folder if value == "FOLDER" else value for key, value in ARGUMENTS.get(name, {}).items()}
        callback = {"class_path": f"lightning.pytorch.callbacks.{name}", "init_args": arguments}
        command = ["fit", "--config", str(Path(__file__).parents[2] / "configs" / "quickstart.yaml")]
        command += ["--model.model", save_model(f"{folder}/model"), "--model.pretrained", "false"]
        command += ["--data.tokenizer", "offline:all-MiniLM-L6-v2", *OPTIMIZERS[optimizer]]
        command += ["--data.max_train_samples", "48", "--data.max_eval_samples", "8", "--data.train_batch_size", "4"]
        command += ["--trainer.max_epochs", "2", "--trainer.accelerator", "cpu", "--trainer.default_root_dir", folder]
        command += ["--trainer.logger.init_args.save_dir", folder, "--trainer.callbacks", json.dumps([callback])]
        errors = io.StringIO()
        with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
            try:
                cli.main(command)
            except SystemExit:
                line = [line for line in errors.getvalue().splitlines() if line.startswith("linetune: error: ")][-1]
                return f"refused: {line.removeprefix('linetune: error: ').split(' (see fit --help')[0]}"
    return "works"


def row(name: str, optimizer: str) -> str:
    """Return a line of the table."""
    return f"| {name} | {optimizer} | {outcome(name, optimizer).replace('|', '/')} |"


HEAD = f"""# Callbacks of Lightning

Every callback that Lightning {metadata.version("lightning")} ships, given to the command line in a small run by
`python -m benchmarks.compatibility.callbacks`, which writes this page. The last column is *works*, or the error
message of the run.
"""


def main() -> None:
    """Print the page."""
    warnings.simplefilter("ignore")
    sys.argv = ["linetune"]  # LightningCLI warns of arguments given twice
    print(HEAD)
    print("| callback | optimizer | outcome |\n| --- | --- | --- |")
    for name in CALLBACKS:
        for optimizer in OPTIMIZERS:
            if optimizer == SEARCH or name in FOR_RATES:
                print(row(name, optimizer), flush=True)


if __name__ == "__main__":
    argparse.ArgumentParser(
        prog="python -m benchmarks.compatibility.callbacks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ).parse_args()
    main()
