"""Processor time and memory of whole runs beside transformers.Trainer's: fits, evaluations and predictions.

    python -m benchmarks.whole_run --data-dir path/to/glue

Every run is a process of its own with one thread, from its start to its exit; runs take turns, so that all see the same
machine. Measured are the processor seconds, user and system, and the peak of memory that the operating system accounts
to the process. Both sides fine-tune the packaged MiniLM on the same rows with AdamW (5e-5, weight decay 0.01 but for
biases and norms, warm-up over a tenth of the steps, linear decay, no clipping) in batches of 32, evaluate after each
epoch, log each step for TensorBoard, save a checkpoint with the optimizer's state whenever an epoch was the best
(transformers.Trainer: after each epoch), and end by writing the best weights with the tokenizer as a folder. The seed
of a run is the number of its repeat. Caches of tokenized rows are new in every run.

Evaluation and prediction are of a file of texts of mixed lengths, half of SST-2, half pairs of MRPC as one text, with a
model that both load from the same folder. "net" is without what the same program takes for 16 of these texts.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks import markdown
from benchmarks.study.machine import ROOT, describe_machine
from datamodules.glue.row_selection import sample
from lightning_modules import SequenceClassifier
from lightning_modules.models.packaged_models import packaged_folder

MODEL = "offline:all-MiniLM-L6-v2"
FOLDERS = {"sst2": "SST-2", "mrpc": "MRPC", "stsb": "STS-B"}
# What every task is scored by, beside the loss.
SCORES = {"sst2": "accuracy", "mrpc": "f1", "stsb": "pearson"}
FEW = 16
# Further arguments by row, of fits and of evaluations and predictions; each side's float32 rows first.
THEIRS = {
    "transformers.Trainer": [],
    "transformers.Trainer, group_by_length": ["--sampling", "group_by_length"],
}
THEIR_FITS = THEIRS | {"transformers.Trainer, group_by_length, bf16": ["--sampling", "group_by_length", "--bf16"]}
OUR_FITS = {
    "cli.py fit": [],
    "cli.py fit, group_by_length": ["--data.group_by_length", "true"],
    "cli.py fit, group_by_length, bf16-mixed": ["--data.group_by_length", "true", "--trainer.precision", "bf16-mixed"],
}
# Starts a program and writes what it took. The kernel counts into a program's peak of memory that of the process which
# started it, which has to be a small one.
LAUNCHER = """
import resource, subprocess, sys
status = subprocess.run(sys.argv[2:]).returncode
usage = resource.getrusage(resource.RUSAGE_CHILDREN)
open(sys.argv[1], "w").write(f"{usage.ru_utime + usage.ru_stime} {usage.ru_maxrss}")
sys.exit(status)
"""


class Run(NamedTuple):
    """What a process took, and what it printed.

    Args:
        seconds: Processor seconds, user and system.
        mebibytes: Peak of resident memory.
        output: Standard output.
    """

    seconds: float
    mebibytes: float
    output: str


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True, help="folder of GLUE's official files")
    parser.add_argument("--tasks", nargs="*", default=list(FOLDERS), choices=FOLDERS)
    parser.add_argument("--rows", type=int, default=500, help="rows to train on, and as many to evaluate on")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--texts", type=int, default=2000, help="texts to evaluate and to predict; 0: neither")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, help="file for what is printed")
    options = parser.parse_args(arguments)
    parts = [heading(options)]
    with tempfile.TemporaryDirectory() as scratch:
        for task in options.tasks:
            parts.append(table_of_fits(task, options, Path(scratch)))
            print(parts[-1], flush=True)
        if options.texts:
            parts.append(table_of_predictions(options, Path(scratch)))
            print(parts[-1], flush=True)
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def heading(options: argparse.Namespace) -> str:
    """Return what was measured, where and how."""
    machine = describe_machine()
    versions = ", ".join(f"{name} {machine[name]}" for name in ("torch", "lightning", "transformers"))
    command = (
        "python -m benchmarks.whole_run --data-dir path/to/glue "
        f"--tasks {' '.join(options.tasks)} --rows {options.rows} --epochs {options.epochs} --texts {options.texts} "
        f"--repeats {options.repeats}"
    )
    return (
        f"# Whole runs\n\n- command: `{command}`\n"
        f"- code: all tables at commit {machine['commit']}, one version of the code\n"
        f"- {machine['cpu']}, {machine['cores']} cores, one thread per process; {versions}\n"
        f"- medians of {options.repeats} (lowest to highest); processor seconds from start to exit"
    )


def table_of_fits(task: str, options: argparse.Namespace, scratch: Path) -> str:
    """Fit each way in turn and return the table."""
    data = scratch / f"data_{task}"
    write_rows(options.data_dir / FOLDERS[task], data / FOLDERS[task], options.rows)
    runs: dict[str, list[Run]] = {name: [] for name in (*THEIR_FITS, *OUR_FITS)}
    for seed in range(options.repeats):
        for name, found in runs.items():
            with tempfile.TemporaryDirectory(dir=scratch) as folder:
                if name in THEIR_FITS:
                    command = their_command("fit", data / FOLDERS[task], packaged_folder(MODEL), THEIR_FITS[name])
                    command += ["--task", task, "--seed", str(seed), "--epochs", str(options.epochs)]
                else:
                    command = [*our_fit(task, data, seed, options.epochs), *OUR_FITS[name]]
                found.append(run(command, Path(folder)))
                report(f"{task}, {name}", found[-1])
    first = next(iter(runs))
    rows = []
    for name, found in runs.items():
        scored = [scores(each.output, task) for each in found]
        cells = [spread([each.seconds for each in found], ".1f"), f"{ratio(found, runs[first]):.2f}"]
        cells += [f"{statistics.median(each.mebibytes for each in found):.0f}"]
        rows.append([name, *cells, *(mean_and_error([each[score] for each in scored]) for score in (0, 1))])
    columns = ["", "seconds", "times the first", "memory, MiB", "val/loss", f"val/{SCORES[task]}"]
    return f"## fit, {task}: {options.rows} rows, {options.epochs} epochs\n\n{markdown.table(columns, rows)}"


def table_of_predictions(options: argparse.Namespace, scratch: Path) -> str:
    """Evaluate and predict each way in turn and return the table."""
    torch.manual_seed(0)
    model = SequenceClassifier(num_labels=2, label_names=["0", "1"]).export(
        scratch / "model", facts={"max_length": 128}
    )
    files = {
        count: write_texts(options.data_dir, scratch / f"texts_{count}.csv", count) for count in (options.texts, FEW)
    }
    rows = []
    for kind in ("validate", "predict"):
        first, *_ = names = [*THEIRS, f"cli.py {kind}"]
        runs: dict[tuple[str, int], list[Run]] = {(name, count): [] for name in names for count in files}
        found: dict[str, dict[str, list[float]]] = {}
        for _, (name, count) in itertools.product(range(options.repeats), runs):
            command = our_prediction(kind, files[count], model)
            if name in THEIRS:
                command = their_command(kind, files[count], model, THEIRS[name])
            with tempfile.TemporaryDirectory(dir=scratch) as folder:
                runs[name, count].append(run(command, Path(folder)))
                if kind == "predict" and count != FEW:
                    found[name] = probabilities(Path(folder))
            report(f"{kind}, {count} texts, {name}", runs[name, count][-1])
        for name in names:
            whole, few = runs[name, options.texts], runs[name, FEW]
            net, their_net = net_seconds(whole, few), net_seconds(runs[first, options.texts], runs[first, FEW])
            cells = [spread([each.seconds for each in whole], ".1f"), f"{ratio(whole, runs[first, options.texts]):.2f}"]
            cells += [spread(net, ".1f"), f"{statistics.median(net) / statistics.median(their_net):.2f}"]
            cells += [f"{statistics.median(each.mebibytes for each in whole):.0f}"]
            rows.append([f"{name}, {kind}" if name in THEIRS else name, *cells])
    gaps = ", ".join(f"{name} {largest_gap(found[first], each):.1e}" for name, each in found.items() if name != first)
    columns = ["", "seconds", "times the first", "net", "net, times the first", "memory, MiB"]
    return (
        f"## Evaluation and prediction, {options.texts} texts\n\n{markdown.table(columns, rows)}\n\n"
        f"Largest difference of a text's probability from the first row's: {gaps}."
    )


def net_seconds(whole: Sequence[Run], few: Sequence[Run]) -> list[float]:
    """Return the seconds of each run without those that the same program takes for a few texts."""
    return [one.seconds - other.seconds for one, other in zip(whole, few, strict=True)]


def run(command: Sequence[str], folder: Path) -> Run:
    """Run a program in a folder, with one thread and without a network, and return what it took.

    Raises:
        RuntimeError: if it fails.
    """
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "cache")}
    output, errors, usage = (folder / name for name in ("output.txt", "errors.txt", "usage.txt"))
    words = [each.replace("{folder}", str(folder)) for each in command]
    with output.open("wb") as out, errors.open("wb") as err:
        # From the clone: the program may be a module of it.
        launched = [sys.executable, "-c", LAUNCHER, str(usage), *words]
        status = subprocess.run(launched, stdout=out, stderr=err, env=environment, cwd=ROOT).returncode
    if status:
        raise RuntimeError(f"{' '.join(words)} failed: {errors.read_text(encoding='utf-8')[-2000:]}")
    seconds, kibibytes = map(float, usage.read_text().split())
    return Run(seconds, kibibytes / 1024, output.read_text(encoding="utf-8"))


def their_command(kind: str, data: Path, model: Path, further: Sequence[str]) -> list[str]:
    """Return the command of a run of transformers.Trainer."""
    named = {"--data": data, "--model": model, "--output": "{folder}"}
    pairs = [str(each) for pair in named.items() for each in pair]
    return [sys.executable, "-m", "benchmarks.transformers_trainer", kind, *pairs, *further]


def our_fit(task: str, data: Path, seed: int, epochs: int) -> list[str]:
    """Return the command of a fit."""
    configs = ["configs/quickstart.yaml", f"configs/tasks/{task}.yaml", "configs/optimizers/adamw.yaml"]
    named = {
        "--model.model": MODEL,
        "--data.data_dir": data,
        "--seed_everything": seed,
        "--trainer.max_epochs": epochs,
        "--trainer.logger.init_args.save_dir": "{folder}",
    }
    pairs = [str(each) for pair in named.items() for each in pair]
    return [sys.executable, "cli.py", "fit", *(each for config in configs for each in ("--config", config)), *pairs]


def our_prediction(kind: str, file: Path, model: Path) -> list[str]:
    """Return the command of an evaluation or a prediction."""
    named = {
        "--model.model": model,
        "--data": "datamodules.TextDataModule",
        "--data.val_file" if kind == "validate" else "--data.predict_file": file,
        "--trainer.logger": "false",
        "--trainer.default_root_dir": "{folder}",
    }
    # What a configuration of a run with training rows leaves to be found in them.
    named |= {"--data.problem_type": "single_label_classification", "--data.label_names": '["0", "1"]'}
    named |= {"--data.text_columns": "text"} | ({"--data.label_column": "label"} if kind == "validate" else {})
    return [sys.executable, "cli.py", kind, *(str(each) for pair in named.items() for each in pair)]


def write_rows(source: Path, folder: Path, rows: int) -> None:
    """Write a random part of a task's training and validation files."""
    folder.mkdir(parents=True)
    for name in ("train.tsv", "dev.tsv"):
        header, *lines = lines_of(source / name)
        chosen = [lines[row] for row in sample(len(lines), rows, seed=0)]
        (folder / name).write_text("\n".join([header, *chosen]) + "\n", encoding="utf-8")


def write_texts(data_dir: Path, file: Path, count: int) -> Path:
    """Write texts of SST-2 and MRPC in turn, with their labels, as a CSV file."""
    columns = {"sst2": (0, 1, 1), "mrpc": (3, 5, 0)}  # first and behind the last column of the texts, the label's
    halves = []
    for task, (first, behind, label) in columns.items():
        _, *lines = lines_of(data_dir / FOLDERS[task] / "train.tsv")
        cells = [lines[row].split("\t") for row in sample(len(lines), count // 2, seed=1)]
        halves.append([(" ".join(each[first:behind]).strip(), each[label]) for each in cells])
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["text", "label"])
        writer.writerows(row for pair in zip(*halves, strict=True) for row in pair)
    return file


def lines_of(file: Path) -> list[str]:
    """Return the lines of a file; separators of Unicode within a text end none."""
    return file.read_text(encoding="utf-8").removesuffix("\n").split("\n")


def scores(output: str, task: str) -> tuple[float, float]:
    """Return loss and score of the last validation from what a fit printed."""
    names = ("loss", SCORES[task])
    if last := re.findall(r'^\{.*"eval_loss".*\}$', output, re.MULTILINE):
        return tuple(json.loads(last[-1])[f"eval_{name}"] for name in names)
    # The last column of the summary.
    found = {name: re.search(rf"^val/{name}\s.*?(\S+)$", output, re.MULTILINE) for name in names}
    return tuple(float(each[1]) if each else float("nan") for each in found.values())  # type: ignore[return-value]


def probabilities(folder: Path) -> dict[str, list[float]]:
    """Return the probability of label 1 by text, from the table that a prediction wrote."""
    (file,) = folder.rglob("predictions.csv")
    found: dict[str, list[float]] = {}
    with file.open(newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            found.setdefault(row["text"], []).append(float(row["probability_1"]))
    return found


def largest_gap(one: dict[str, list[float]], other: dict[str, list[float]]) -> float:
    """Return the largest difference of a text's probabilities."""
    return max(abs(a - b) for text in one for a, b in zip(one[text], other[text], strict=True))


def ratio(runs: Sequence[Run], first: Sequence[Run]) -> float:
    """Return the median of seconds as a multiple of another's."""
    return statistics.median(each.seconds for each in runs) / statistics.median(each.seconds for each in first)


def spread(values: Sequence[float], form: str) -> str:
    """Return the median, the lowest and the highest value."""
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def mean_and_error(values: Sequence[float]) -> str:
    """Return the mean and its standard error."""
    if len(values) == 1:
        return f"{values[0]:.3f}"
    error = statistics.stdev(values) / len(values) ** 0.5
    return f"{statistics.mean(values):.3f} ± {error:.3f}"


def report(name: str, done: Run) -> None:
    """Say on standard error that a run is done."""
    print(f"{name}: {done.seconds:.1f} s, {done.mebibytes:.0f} MiB", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
