"""Reading, tokenizing and caching of texts: a CSV file beside GLUE's folder, on the same texts.

    python -m benchmarks.text_loading --rows 1000000 --glue-from /path/to/another/checkout

Each start is a process of its own. The first table has the rows per second of a first start, from the file to the
tokenized rows on disk, and the peak of memory that is not mapped from files, above what it is before; for the full
number of rows and for a tenth of them. Where other programs take processors away, the rows per second of processor time
say more than those of the clock. The second table has the seconds of a whole second start, imports included, with the
cache of the first one, beside those of a start on 1000 rows. `--glue-from` names a checkout whose GLUE source is
measured, too. Starts take turns. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import markdown

ROOT = Path(__file__).resolve().parents[1]
WORDS = re.split(
    " ",
    "the a film is good bad very not plot story actor music time people little great boring long charming dull scene "
    "character director never always makes feel though unforgettable screenplay melodramatic",
)
MAX_WORDS = 16

# A start in a process of its own: prints seconds, processor seconds and the peak of anonymous memory in MiB.
START = """
import json, sys, threading, time
from datamodules import GLUEDataModule
kind, folder, cache = sys.argv[1:]

def anonymous():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("RssAnon")) / 1024

if kind == "glue":
    data = GLUEDataModule("sst2", data_dir=folder, cache_dir=cache)
else:
    from datamodules import TextDataModule
    files = {"train_file": f"{folder}/train.csv", "val_file": f"{folder}/dev.csv"}
    data = TextDataModule(**files, text_columns="sentence", label_column="label", cache_dir=cache)
data.tokenizer
before, peak, done = anonymous(), 0, False

def watch():
    global peak
    while not done:
        peak = max(peak, anonymous())
        time.sleep(0.01)

watcher = threading.Thread(target=watch)
watcher.start()
started, processor = time.perf_counter(), time.process_time()
data.setup("fit")
seconds, processor = time.perf_counter() - started, time.process_time() - processor
done = True
watcher.join()
next(iter(data.train_dataloader()))
print(json.dumps({"seconds": seconds, "processor": processor, "memory": peak - before}))
"""


def write_texts(folder: Path, rows: int, seed: int = 0) -> None:
    """Write the same texts as CSV files and as SST-2's files."""
    draw = random.Random(seed)
    (folder / "SST-2").mkdir(parents=True)
    for split, size in (("train", rows), ("dev", 100)):
        with (
            open(folder / f"{split}.csv", "w", encoding="utf-8") as comma,
            open(folder / "SST-2" / f"{split}.tsv", "w", encoding="utf-8") as tab,
        ):
            comma.write("sentence,label\n")
            tab.write("sentence\tlabel\n")
            for row in range(size):
                text = f"{' '.join(draw.choices(WORDS, k=draw.randint(3, MAX_WORDS)))} {row}"
                comma.write(f"{text},{row % 2}\n")
                tab.write(f"{text}\t{row % 2}\n")


def start(kind: str, folder: Path, cache: Path, checkout: Path = ROOT) -> dict[str, float]:
    """Start a process that opens the rows; return its seconds, those of the whole process, and its memory."""
    environment = {**os.environ, "PYTHONPATH": str(checkout), "HF_HUB_OFFLINE": "1"}
    started = time.perf_counter()
    command = [sys.executable, "-c", START, kind, str(folder), str(cache)]
    done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return {**json.loads(done.stdout.splitlines()[-1]), "whole": time.perf_counter() - started}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000, help="rows of the files")
    parser.add_argument("--repeats", type=int, default=3, help="starts of each kind; medians are printed")
    parser.add_argument("--glue-from", type=Path, help="another checkout whose GLUE source is measured, too")
    arguments = parser.parse_args()
    rows = arguments.rows
    kinds = {"TextDataModule, CSV": ("own", ROOT), "GLUEDataModule, folder": ("glue", ROOT)}
    if arguments.glue_from is not None:
        kinds[f"GLUEDataModule, folder, of {arguments.glue_from.name}"] = ("glue", arguments.glue_from.resolve())
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        sizes = {rows: root / "all", rows // 10: root / "tenth", 1000: root / "thousand"}
        for size, folder in sizes.items():
            write_texts(folder, size)
        cold: dict[tuple[str, int], list[dict[str, float]]] = {}
        for repeat in range(arguments.repeats):
            for label, (kind, checkout) in kinds.items():
                for size in (rows, rows // 10):
                    cache = root / f"cache {label.replace('/', ' ')} {size} {repeat}"
                    cold.setdefault((label, size), []).append(start(kind, sizes[size], cache, checkout))
        columns = ["first start", "rows", "rows per second", "rows per second of processor time", "memory, MiB"]
        print(markdown.head(columns, numbers=True))
        for (label, size), found in cold.items():
            seconds, processor, memory = (
                statistics.median(each[name] for each in found) for name in ("seconds", "processor", "memory")
            )
            rates = [f"{size / each:,.0f}" for each in (seconds, processor)]
            print(markdown.row([label, size, *rates, f"{memory:,.0f}"]), flush=True)
        warm: dict[int, list[float]] = {rows: [], 1000: []}
        cache = root / "warm"
        for size in warm:
            start("own", sizes[size], cache)
        for _ in range(arguments.repeats):
            for size, found_seconds in warm.items():
                found_seconds.append(start("own", sizes[size], cache)["whole"])
        shown = [[f"{size} rows", f"{statistics.median(found):.2f}"] for size, found in warm.items()]
        print("\n" + markdown.table(["second start, TextDataModule", "seconds"], shown, numbers=True))


if __name__ == "__main__":
    main()
