"""What a step costs beside the model, and beside another tree's: a fit of a BERT so small that little else takes time.

    git worktree add ../before v0.1.0
    OMP_NUM_THREADS=1 python -m benchmarks.step_overhead ../before

Each fit is a process of its own, the trees in turn. Times are the processor's milliseconds in user mode per step, the
least of all rounds, without the first steps. The last column compares the losses of all steps and the parameters at the
end, to the bit.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
OPTIMIZERS = ("AdamW", "SaLSA", "ParabolicAdam")
WARM_UP = 20
SIZES = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


def measure(name: str, steps: int) -> tuple[float, str]:
    """Return the milliseconds of a step of this process's tree, and a digest of its losses and parameters."""
    import torch
    from lightning.pytorch import Callback, Trainer
    from torch.utils.data import DataLoader
    from transformers import BertConfig, BertForSequenceClassification

    import optimizers
    from lightning_modules import SequenceClassifier

    times, digest = [], hashlib.sha256()

    class Watch(Callback):
        def on_train_batch_end(self, trainer: Any, *others: Any) -> None:
            times.append(resource.getrusage(resource.RUSAGE_SELF).ru_utime)
            digest.update(repr(float(trainer.callback_metrics["train/loss"])).encode())

    torch.set_num_threads(1)
    torch.manual_seed(0)
    tokens = torch.randint(1, SIZES["vocab_size"], (64, 6))
    mask = torch.ones(6, dtype=torch.long)
    rows: Any = [
        {"input_ids": row, "attention_mask": mask, "labels": torch.tensor(index % 2)}
        for index, row in enumerate(tokens)
    ]
    make = {"AdamW": partial(torch.optim.AdamW, lr=1e-4)}.get(name) or getattr(optimizers, name)
    with tempfile.TemporaryDirectory() as folder:
        BertForSequenceClassification(BertConfig(num_labels=2, **SIZES)).save_pretrained(folder)
        model = SequenceClassifier(folder, optimizer=make, num_labels=2)
    switched_off = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    options: Any = dict.fromkeys(switched_off, False) | {"accelerator": "cpu", "limit_val_batches": 0}
    Trainer(max_steps=steps + WARM_UP, callbacks=[Watch()], **options).fit(model, DataLoader(rows, batch_size=8))
    for parameter in model.parameters():
        digest.update(parameter.detach().numpy().tobytes())
    return 1000 * (times[-1] - times[WARM_UP - 1]) / steps, digest.hexdigest()


def measured_in(tree: Path, name: str, steps: int) -> tuple[float, str]:
    """Return what `measure` returns in a new process of a tree."""
    done = subprocess.run(
        [sys.executable, "-P", __file__, "--measure", name, "--steps", str(steps), "."],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": str(tree)},
        capture_output=True,
        text=True,
        check=True,
    )
    milliseconds, digest = done.stdout.split()[-2:]
    return float(milliseconds), digest


def compare(before: Path, after: Path, steps: int, rounds: int) -> str:
    """Return a table of both trees' milliseconds per step."""
    lines = ["| | before, ms | after, ms | ratio | losses and parameters |", "| --- | --- | --- | --- | --- |"]
    for name in OPTIMIZERS:
        pairs = [(measured_in(before, name, steps), measured_in(after, name, steps)) for _ in range(rounds)]
        old, new = (min(pair[version][0] for pair in pairs) for version in (0, 1))
        equal = len({digest for pair in pairs for _, digest in pair}) == 1
        lines.append(f"| {name} | {old:.2f} | {new:.2f} | {new / old:.2f} | {'equal' if equal else 'different'} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tree", type=Path, help="a checkout of the version to compare with")
    parser.add_argument("--steps", type=int, default=400, help="steps that are measured (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is measured (default: %(default)s)")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.measure:
        print(*measure(options.measure, options.steps))
        return
    if not (options.tree / "lightning_modules").is_dir():
        parser.error(f"{options.tree} is no checkout: it has no lightning_modules")
    print(compare(options.tree.resolve(), ROOT, options.steps, options.rounds))


if __name__ == "__main__":
    main()
