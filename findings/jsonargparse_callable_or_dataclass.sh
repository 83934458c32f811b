#!/usr/bin/env bash
# jsonargparse 4.53.0: an argument typed "a callable that makes a class, or a dataclass" parses a dataclass's section,
# but dump() writes a sentence in the place of the value and only warns. A program that saves its configuration saves
# one that cannot be read again. With the dataclass first in the union, the value is written.
# Seen: plan: Unable to serialize instance Namespace(make=Namespace(class_path='__main__.Line', ...), interval='epoch')
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "jsonargparse[signatures]==4.53.0"
cat > "$folder/try.py" <<'PYTHON'
import dataclasses
import warnings
from collections.abc import Callable

import yaml
from jsonargparse import ArgumentParser

warnings.simplefilter("ignore")


class Line:
    def __init__(self, start: str, factor: float = 0.5) -> None:
        self.start, self.factor = start, factor


@dataclasses.dataclass
class Plan:
    make: Callable[[str], Line]
    interval: str = "step"


def dumped(hint: object) -> object:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--plan", type=hint)
    section = "{make: {class_path: __main__.Line, init_args: {factor: 0.1}}, interval: epoch}"
    parsed = parser.parse_args(["--plan", section])
    assert parsed.plan.interval == "epoch"
    return yaml.safe_load(parser.dump(parsed))["plan"]


maker = Callable[[str], Line]
first, second = dumped(maker | Plan | None), dumped(Plan | maker | None)
print("callable first: ", first)
print("dataclass first:", second)
assert isinstance(first, str) and first.startswith("Unable to serialize instance"), "the behaviour has changed"
assert second["interval"] == "epoch" and second["make"]["init_args"] == {"factor": 0.1}, "the behaviour has changed"
PYTHON
"$folder/venv/bin/python" "$folder/try.py"
