"""A run of the command line that is killed again and again, and goes on with `--ckpt_path last` each time.

    OMP_NUM_THREADS=1 python -m benchmarks.kill_runs --kills 20

A BERT with random weights trains on the quickstart's sentences and saves a checkpoint every other step, twice (a file
of the step, and `last.ckpt`). Every second kill waits until a checkpoint is being written, the others come at a random
moment of the first seconds after a start's first checkpoint. After each kill all checkpoints are read, and the next
start has to go on from the whole one with the highest step. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import re
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from transformers import BertConfig, BertForSequenceClassification

import cli
from benchmarks import markdown
from callbacks.checkpoints.checkpoint_reading import read_checkpoint

ROOT = Path(__file__).resolve().parent.parent
CALLBACKS = """
- class_path: lightning.pytorch.callbacks.ModelCheckpoint
  init_args: {every_n_train_steps: 2, save_top_k: 1, save_last: true}
"""


@dataclass
class Kill:
    """What a kill left, and what the next start made of it.

    Args:
        while_saving: Whether a checkpoint was being written.
        torn: Checkpoints that are not whole and have a good name.
        leftovers: Files that were being written.
        newest_step: Highest step of a whole checkpoint; 0 if there is none.
        resumed_at: The step that the next start went on from; 0 if it started from the beginning.
    """

    while_saving: bool
    torn: int
    leftovers: int
    newest_step: int
    resumed_at: int = 0


def save_model(folder: Path, hidden_size: int) -> None:
    """Save a BERT with random weights and the packaged tokenizer's vocabulary."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=30522,
        hidden_size=hidden_size,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=2 * hidden_size,
        max_position_embeddings=128,
    )
    BertForSequenceClassification(config).save_pretrained(folder)


def start(folder: Path, log: Path) -> int:
    """Start the command line in a process of its own, which goes on with the last checkpoint; return its id."""
    process = os.fork()  # which spares the seconds of the imports
    if process:
        return process
    sys.stdout = sys.stderr = log.open("w", buffering=1)
    for number in (1, 2):
        os.dup2(sys.stdout.fileno(), number)
    torch.set_num_threads(1)
    sys.argv = ["cli.py"]
    arguments = ["--config", str(ROOT / "configs/quickstart.yaml"), "--config", str(ROOT / "configs/trainer/cpu.yaml")]
    arguments += ["--model.model", str(folder / "model"), "--data.tokenizer", "offline:all-MiniLM-L6-v2"]
    arguments += ["--data.train_batch_size", "8", "--data.cache_dir", str(folder / "cache")]
    arguments += ["--trainer.callbacks", CALLBACKS, "--trainer.logger.init_args.save_dir", str(folder / "runs")]
    arguments += ["--trainer.max_epochs", "1000", "--trainer.enable_progress_bar", "false", "--ckpt_path", "last"]
    try:
        cli.main(["fit", *arguments])
    finally:
        os._exit(1)  # it is killed before it ends


def wait_for_start(log: Path, process: int, seconds: float = 300) -> int:
    """Wait until a process trains, and return the step that it began at.

    Raises:
        RuntimeError: it ended, or did not begin.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        text = log.read_text(errors="replace") if log.exists() else ""
        if found := re.search(r"^resumed from .*: epoch \d+, step (\d+)$", text, re.MULTILINE):
            return int(found[1])
        if "THE RUN STARTS FROM THE BEGINNING" in text and "Trainable params" in text:  # the summary before training
            return 0
        if has_ended(process):
            break
        time.sleep(0.01)
    raise RuntimeError(f"the run did not begin: {log.read_text(errors='replace')}")


def look(folder: Path, while_saving: bool) -> Kill:
    """Read all checkpoints of an experiment."""
    steps, torn = [0], 0
    for file in (folder / "runs").rglob("*.ckpt"):
        try:
            steps.append(read_checkpoint(file)["global_step"])
        except MisconfigurationException:
            torn += 1
    leftovers = list((folder / "runs").rglob(".unfinished-*"))
    return Kill(while_saving, torn, len(leftovers), max(steps))


def has_ended(process: int) -> bool:
    """Return whether a process has ended; its id stays taken, for the kill that follows."""
    return os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def saved(folder: Path) -> dict[Path, int]:
    """Return the checkpoints of an experiment, each with the time that it was written at."""
    found = {}
    for file in (folder / "runs").rglob("*.ckpt"):
        with contextlib.suppress(FileNotFoundError):  # a newer one has taken its place meanwhile
            found[file] = file.stat().st_mtime_ns
    return found


def wait_for_save(folder: Path, before: dict[Path, int], process: int, seconds: float = 300) -> None:
    """Wait until there is a checkpoint that was not there before.

    Raises:
        RuntimeError: the process ended, or saved none.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if saved(folder) != before:
            return
        if has_ended(process):
            break
        time.sleep(0.01)
    raise RuntimeError("the run saved no checkpoint")


def kill_runs(folder: Path, kills: int, hidden_size: int = 128, seconds: float = 3, seed: int = 0) -> list[Kill]:
    """Kill a run so many times, and start it once more.

    Args:
        folder: An empty folder.
        kills: How often.
        hidden_size: Of the model; its checkpoint has about 0.4 MB for each unit of it.
        seconds: The longest time from a checkpoint, or from the start of training, to a kill.
        seed: For the moments of the kills.
    """
    chance = random.Random(seed)
    found: list[Kill] = []
    save_model(folder / "model", hidden_size)
    log = folder / "log.txt"
    for number in range(kills + 1):
        log.unlink(missing_ok=True)
        before, is_saving = saved(folder), number % 2 == 1
        process = start(folder, log)
        try:
            step = wait_for_start(log, process)
            if found:
                found[-1].resumed_at = step
            if number == kills:
                break
            if not is_saving:
                wait_for_save(folder, before, process)
            time.sleep(chance.uniform(0, seconds))
            deadline = time.monotonic() + 20
            while is_saving and time.monotonic() < deadline and not list((folder / "runs").rglob(".unfinished-*")):
                time.sleep(0.0005)
        finally:
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
        found.append(look(folder, bool(list((folder / "runs").rglob(".unfinished-*")))))
    return found


def table(kills: list[Kill]) -> str:
    """Return the counts as a Markdown table."""
    counts = {
        "kills": len(kills),
        "of them while a checkpoint was written": sum(kill.while_saving for kill in kills),
        "torn checkpoints under a proper name": max((kill.torn for kill in kills), default=0),
        "unfinished files left at a time, at most": max((kill.leftovers for kill in kills), default=0),
        "starts that resumed from the newest intact checkpoint": sum(k.resumed_at == k.newest_step for k in kills),
        "step reached": kills[-1].newest_step if kills else 0,
    }
    return markdown.table(["", ""], counts.items(), numbers=True)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        kills = kill_runs(Path(folder), options.kills)
    print(table(kills))


if __name__ == "__main__":
    main()
