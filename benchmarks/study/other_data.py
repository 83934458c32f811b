"""Results that are of another data folder than the one that a study names now."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import yaml

from benchmarks.study.grid import Run
from benchmarks.study.run_arguments import TENSORBOARD, VARIABLE, command_line_value, run_version
from benchmarks.study.yaml_file import read_yaml


def other_data(runs: Sequence[Run], output: Path) -> Counter[tuple[str | None, str | None]]:
    """Count finished runs whose data folder differs from the one that the study names now.

    Ids of runs depend on the text ``${GLUE_DIR}``, not on the variable's value.

    Returns:
        The number of runs for each ``(folder then, folder now)``; ``None`` means no folder. Runs without a resolved
        configuration beside their TensorBoard files are not counted.
    """
    configs = {path.parent.name: path for path in (output / TENSORBOARD).rglob("config.yaml")}
    counts: Counter[tuple[str | None, str | None]] = Counter()
    for run in runs:
        setting, config = run.cell.settings.get("data.data_dir"), configs.get(run_version(run))
        if config is None or not isinstance(setting, str) or not VARIABLE.search(setting):
            continue
        data = read_yaml(config)["data"]
        then = data.get("init_args", data).get("data_dir")
        # A variable that is not set is an error when a run starts, not here.
        with contextlib.suppress(ValueError):
            now = yaml.safe_load(command_line_value(setting))
            if _real_path(then) != _real_path(now):
                counts[then, now] += 1
    return counts


def _real_path(folder: str | None) -> str | None:
    return None if folder is None else os.path.realpath(Path(folder).expanduser())
