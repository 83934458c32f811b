#!/usr/bin/env bash
# datasets 5.2.0 on Linux: under `map(…, num_proc=n)` a function that draws random numbers draws the same ones in each process:
# the processes are forks, and every one begins with the state of numpy's generator (and torch's) that the parent had. Noise,
# masks or synonyms drawn for the first quarter of the rows come again in the second. The module `random` is seeded anew in each
# process, and a generator passed through `fn_kwargs` is copied as well. Drawing by the row's number is right. torch's
# DataLoader seeds its workers apart.
# Seen, 8 rows: 8 different numbers with one process, 2 with four, also with a generator passed to them; 8 with one for every row.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "datasets==5.2.0" "numpy==2.4.6"
cat > "$folder/try.py" <<'PYTHON'
import datasets
import numpy
from datasets import Dataset

datasets.disable_progress_bars()
datasets.disable_caching()
rows = Dataset.from_dict({"row": list(range(8))})


def noise(row):
    return {"noise": numpy.random.normal()}


def noise_of_row(row, number):
    return {"noise": numpy.random.default_rng([7, number]).normal()}


def noise_of(row, generator):
    return {"noise": generator.normal()}


if __name__ == "__main__":
    numpy.random.seed(0)
    drawn = {processes: len(set(rows.map(noise, num_proc=processes)["noise"])) for processes in (None, 4)}
    passed = {"generator": numpy.random.default_rng(0)}
    copied = len(set(rows.map(noise_of, num_proc=4, fn_kwargs=passed)["noise"]))
    by_row = len(set(rows.map(noise_of_row, with_indices=True, num_proc=4)["noise"]))
    print(f"different numbers in 8 rows: {drawn[None]} with one process, {drawn[4]} with four, {copied} with a generator "
          f"passed to four, {by_row} with one for every row")
    assert (drawn[None], drawn[4], copied, by_row) == (8, 2, 2, 8), "the behaviour has changed"
PYTHON
HF_HOME="$folder/home" "$folder/venv/bin/python" "$folder/try.py"
