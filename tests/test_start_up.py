"""What the start of the command line costs, told without a clock: what the collector of garbage has to look at."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("collects", [True, False])
def test_imports_happen_without_collections_and_are_left_alone_later(collects: bool) -> None:
    # CPython 3.11 took 1.1 s of 4.3 s for full collections during the imports, and 1.1 s more for one at exit.
    code = (
        "import gc, sys; sys.path.insert(0, sys.argv[1])\n"
        "gc.enable() if int(sys.argv[2]) else gc.disable()\n"
        "before = gc.get_stats()[2]['collections']\n"
        "import linetune\n"
        "at_linetune = gc.get_stats()[2]['collections'] - before\n"
        "import cli\n"
        "print(at_linetune, int(gc.isenabled()), int(gc.get_freeze_count() > 10 * len(gc.get_objects())))"
    )
    command = [sys.executable, "-c", code, str(ROOT), str(int(collects))]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", str(int(collects)), "1"], done.stdout
