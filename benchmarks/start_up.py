"""What the start of the command line costs, beside another tree's: processor time until something happens.

    git worktree add ../before v0.1.0
    OMP_NUM_THREADS=1 python -m benchmarks.start_up ../before

Three things are measured, each in a new process, the trees in turn: ``fit --help`` from start to exit, and a fit
of the quickstart up to its first batch and up to the end of its first step. Times are the processor's seconds in user
mode, the least of all rounds: what else runs on a machine only adds to them. A first round fills the caches of files
and of bytecode, and does not count.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks import markdown

ROOT = Path(__file__).parent.parent
FIT = ("fit", "--config", "configs/quickstart.yaml", "--config", "configs/trainer/cpu.yaml")
WATCHED = ("--trainer.callbacks+", "stopwatch.Stopwatch")
ROWS = ("fit --help", "fit, to the first batch", "fit, to the end of the first step")
# A callback for the configuration of a tree that may not have this file.
STOPWATCH = """
import os, resource
from lightning.pytorch import Callback

class Stopwatch(Callback):
    def on_train_batch_start(self, *args):
        self.first_batch = resource.getrusage(resource.RUSAGE_SELF).ru_utime

    def on_train_batch_end(self, *args):
        with open(os.path.join(os.path.dirname(__file__), "seconds"), "w") as file:
            print(self.first_batch, resource.getrusage(resource.RUSAGE_SELF).ru_utime, file=file)
        os._exit(0)
"""


def start(tree: Path, *arguments: str, folder: str) -> float:
    """Run a tree's command line, and return the seconds in user mode that it took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    subprocess.run(
        [sys.executable, "cli.py", *arguments],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": folder},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=True,
    )
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before


def measure(tree: Path) -> tuple[float, ...]:
    """Return the seconds of each row of the table, measured once."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "stopwatch.py").write_text(STOPWATCH)
        helped = start(tree, "fit", "--help", folder=folder)
        start(tree, *FIT, "--trainer.logger.save_dir", folder, *WATCHED, folder=folder)
        return (helped, *map(float, (Path(folder) / "seconds").read_text().split()))


def compare(before: Path, after: Path, rounds: int) -> str:
    """Return a table of both trees' seconds and their ratio."""
    measure(before), measure(after)
    seconds = [(measure(before), measure(after)) for _ in range(rounds)]
    rows = []
    for row, name in enumerate(ROWS):
        old, new = (min(each[version][row] for each in seconds) for version in (0, 1))
        rows.append([name, f"{old:.2f}", f"{new:.2f}", f"{new / old:.2f}"])
    return markdown.table(["", "before, s", "after, s", "ratio"], rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tree", type=Path, help="a checkout of the version to compare with")
    parser.add_argument("--rounds", type=int, default=5, help="how often each is measured (default: %(default)s)")
    options = parser.parse_args(arguments)
    if not (options.tree / "cli.py").is_file():
        parser.error(f"{options.tree} is no checkout: it has no cli.py")
    print(compare(options.tree.resolve(), ROOT, options.rounds))


if __name__ == "__main__":
    main()
