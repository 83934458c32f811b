"""Shipped configs with something wrong in them: a run that starts, or one line and nothing written; never a traceback.

    python -m tests.test_fuzz_configs 300 --begin 0

makes more of them, in this process, and prints those that end otherwise.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import difflib
import io
import itertools
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from lightning.pytorch.strategies.launchers import subprocess_script
from lightning.pytorch.utilities.exceptions import MisconfigurationException

import cli
from lightning_modules import ModelError
from tests.tiny_models import save_tiny_bert

ROOT = Path(__file__).resolve().parent.parent
# Studies are another program's, and more than one node waits for the others.
CONFIGS = sorted(each for each in (ROOT / "configs").rglob("*.yaml") if each.parent.name != "studies")
SECONDS = 120
CASES = [(number, alike) for number in range(4) for alike in (False, True)]
NUMBERS = [0, 1, -1, 2, 10**9, -(10**9), 10**30, 0.0, 0.5, -0.5, 1.0, 1.5, 1e-300, float("nan"), float("inf")]
VALUES = [
    *(None, True, False, *NUMBERS),
    *("", "x", "null", "-1", "1e5", "0", ".", "a: b", "\t", "é\u2028", "x" * 3000, "2020-01-01", "sst2", "AdamW"),
    *([], [1, 2], ["x"], [None], [[]], {}, {"a": 1}, {1: 2}, {"class_path": "torch.nn.Linear"}, {"class_path": None}),
    *({"class_path": "no.such.Class"}, {"class_path": "optimizers.SaLSA", "init_args": {"c": "x"}}, {"init_args": []}),
]
BYTES = [
    "\t",
    "\n",
    ":",
    "- ",
    "\x00",
    "&a ",
    "*a",
    "{",
    "]",
    "'",
    "#",
    "\ufeff",
    "!!python/object:os.system ",
    "? ",
    "---\n",
]


def places(node: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The ways from the top of a configuration to all that is in it."""
    pairs = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in pairs:
        yield (*way, key)
        yield from places(value, (*way, key))


def alike_values(value: Any) -> list[Any]:
    """Values of a value's own type, which its place in a configuration takes at first."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int | float):
        return [each for each in NUMBERS if isinstance(value, float) or isinstance(each, int)]
    if value is None:
        return [*NUMBERS, "x", "", True]
    return [each for each in VALUES if isinstance(each, str)] if isinstance(value, str) else []


def mutated(text: str, dice: random.Random, alike: bool) -> str:
    """A configuration with one to three things wrong in it; ``alike``: values alone, of the type that was there."""
    if not alike and dice.random() < 0.15:
        for _ in range(dice.randint(1, 3)):
            at = dice.randrange(len(text))
            text = text[:at] + dice.choice(BYTES) + text[at + dice.randint(0, 3) :]
        return text
    config = yaml.safe_load(text)
    for _ in range(dice.choice([1, 1, 1, 2, 3])):
        ways = list(places(config))
        if not ways:
            return yaml.safe_dump(dice.choice(VALUES), allow_unicode=True)
        *above, key = dice.choice(ways)
        holder = config
        for step in above:
            holder = holder[step]
        kind = "value" if alike else dice.choice(["value", "value", "value", "delete", "rename", "add", "list"])
        if kind == "value":
            near = alike_values(holder[key]) if alike or dice.random() < 0.8 else VALUES
            holder[key] = copy.deepcopy(dice.choice(near)) if near else holder[key]
        elif kind == "delete":
            del holder[key]
        elif kind == "list":
            holder[key] = [holder[key]]
        elif isinstance(holder, dict) and kind == "rename":
            holder[f"{key}s"] = holder.pop(key)
        elif isinstance(holder, dict):
            holder[dice.choice(["unknown", "lr", "class_path", "init_args", "dict_kwargs", 7, ""])] = dice.choice(
                VALUES
            )
    return yaml.safe_dump(config, allow_unicode=True)


def resolved(folder: Path) -> str:
    """The whole configuration of the quickstart, with every argument of trainer, model and data."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        cli.main(["fit", *arguments_for(ROOT / "configs/quickstart.yaml", folder, set()), "--print_config"])
    return printed.getvalue()


def arguments_for(config: Path, folder: Path, given: set[str]) -> list[str]:
    """The arguments that make a run small, but for what the configuration gives itself."""
    small = {
        "model.model": str(folder / "tiny"),
        "data.tokenizer": "offline:all-MiniLM-L6-v2",
        "data.source": "synthetic",
        "data.cache_dir": str(folder / "cache"),
        "data.max_train_samples": 24,
        "data.max_eval_samples": 8,
        "data.max_length": 32,
        "trainer.max_steps": 2,
        "trainer.accelerator": "cpu",
        "trainer.devices": 1,
        "trainer.strategy": "auto",
        "trainer.num_nodes": 1,
        "trainer.enable_progress_bar": "false",
        "trainer.enable_model_summary": "false",
    }
    if "own_data" in config.name:
        (folder / "texts.csv").write_text("text,label\n" + "".join(f"good {i},{i % 2}\n" for i in range(30)))
        small |= {
            "data.train_file": str(folder / "texts.csv"),
            "data.text_columns": "text",
            "data.label_column": "label",
        }
        for name in ("source", "max_train_samples", "max_eval_samples"):
            del small[f"data.{name}"]
    options = itertools.chain.from_iterable(
        (f"--{name}", str(each)) for name, each in small.items() if name not in given
    )
    return ["--config", str(config), *options]


def given_anew(changed: Any, own: Any) -> set[str]:
    """Names of arguments whose values a changed configuration has otherwise than the one that it was."""
    found = set()
    for section in ("model", "data", "trainer"):
        new, old = (each.get(section) if isinstance(each, dict) else None for each in (changed, own))
        new, old = (each if isinstance(each, dict) else {} for each in (new, old))
        new, old = (each["init_args"] if isinstance(each.get("init_args"), dict) else each for each in (new, old))
        found |= {f"{section}.{name}" for name, value in new.items() if name not in old or value != old[name]}
    return found - {"model.model", "trainer.num_nodes"}


def outcome(text: str, config: Path, own: str, folder: Path) -> str:
    """How a run ends that begins with a configuration: ``ran``, ``refused: …``, or what is wrong with its end.

    Args:
        text: The configuration.
        config: The file that it was made from.
        own: What that file holds.
        folder: A folder with the tiny model.
    """
    work = Path(tempfile.mkdtemp(dir=folder, prefix="run"))
    (work / config.name).write_text(text, encoding="utf-8")
    given: set[str] = set()
    with contextlib.suppress(yaml.YAMLError, ValueError):
        given = given_anew(yaml.safe_load(text), yaml.safe_load(own))
    quick = [] if config.name in ("quickstart.yaml", "own_data.yaml") else ["--config", "linetune:quickstart"]
    arguments = ["fit", *quick, *arguments_for(work / config.name, folder, given)]
    errors, before, home = io.StringIO(), {work / config.name}, os.getcwd()
    os.chdir(work)
    try:
        with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            cli.main(arguments)
        return "ran"
    except SystemExit as end:
        lines = [line for line in errors.getvalue().splitlines() if line.startswith("linetune: error: ")]
        left = sorted(str(each.relative_to(work)) for each in set(work.rglob("*")) - before)
        if end.code != 2 or len(lines) != 1:
            return f"status {end.code} with {len(lines)} lines: {lines}"
        return f"left {left} after {lines[0]}" if left else f"refused: {lines[0]}"
    except BaseException:
        return traceback.format_exc(limit=-4)
    finally:
        os.chdir(home)
        shutil.rmtree(work, ignore_errors=True)


def case(number: int, whole: str, alike: bool) -> tuple[Path, str, str]:
    """A config, what it holds (the quickstart: all of its arguments), and that with something wrong."""
    dice = random.Random(number)
    config = dice.choice([ROOT / "configs/quickstart.yaml"] * 3 + [dice.choice(CONFIGS)])
    own = whole if config.name == "quickstart.yaml" else config.read_text()
    return config, own, mutated(own, dice, alike)


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("fuzz")
    save_tiny_bert(folder / "tiny", vocab_size=30522, max_position_embeddings=128)
    return folder, resolved(folder)


# Refused by the parser, a class, the model, the data, the trainer and the optimizer; and runs.
@pytest.mark.parametrize(("number", "alike"), CASES)
def test_a_config_with_something_wrong_is_one_line_or_a_run(
    number: int, alike: bool, tiny_folder: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["linetune"])
    folder, whole = tiny_folder
    config, own, text = case(number, whole, alike)
    end = outcome(text, config, own, folder)
    assert end.startswith(("ran", "refused: ")), f"{end}\n{difference(own, text)}"


def test_the_fuzzer_tells_what_ends_otherwise(tiny_folder: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    def left_behind(_: Any) -> None:
        Path("half").touch()
        raise ModelError("refused too late")

    monkeypatch.setattr(sys, "argv", ["linetune"])
    config, (folder, _) = ROOT / "configs/quickstart.yaml", tiny_folder
    for broken, expected in ((left_behind, "left ['half'] after "), (lambda _: 1 / 0, "Traceback")):
        monkeypatch.setattr(cli.LinetuneCLI, "before_instantiate_classes", broken)
        assert outcome(config.read_text(), config, config.read_text(), folder).startswith(expected)


def starts_no_process(*_: Any, **__: Any) -> None:
    raise MisconfigurationException("starts other processes")


def time_is_over(*_: Any) -> None:
    raise TimeoutError(f"no end within {SECONDS} seconds")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("count", type=int)
    parser.add_argument("--begin", type=int, default=0)
    parser.add_argument("--alike", action="store_true", help="values alone, of the type that was there")
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (12 * 2**30, 12 * 2**30))
    signal.signal(signal.SIGALRM, time_is_over)
    subprocess_script._SubprocessScriptLauncher._call_children_scripts = starts_no_process  # type: ignore
    sys.argv = ["linetune"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_tiny_bert(folder / "tiny", vocab_size=30522, max_position_embeddings=128)
        whole = resolved(folder)
        ends: dict[str, int] = {}
        for number in range(options.begin, options.begin + options.count):
            config, own, text = case(number, whole, options.alike)
            if "num_workers: 1000" in text:  # that many processes are what was asked for
                continue
            signal.alarm(SECONDS)
            end = outcome(text, config, own, folder)
            signal.alarm(0)
            kind = end.split(":")[0] if end.startswith(("ran", "refused")) else "FAULT"
            ends[kind] = ends.get(kind, 0) + 1
            print(number, config.name, end if kind != "FAULT" else f"FAULT {end}\n{difference(own, text)}", flush=True)
        print(ends)


def difference(own: str, text: str) -> str:
    lines = difflib.unified_diff(own.splitlines(), text.splitlines(), n=0, lineterm="")
    return "\n".join(line[:300] for line in lines)


if __name__ == "__main__":
    main()
