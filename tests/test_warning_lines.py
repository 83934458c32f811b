"""Warnings on the command line: one line each, and none about what a user cannot change."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import warnings
from pathlib import Path

import peft
from jsonargparse import Namespace

from lightning_modules.ignored_warnings import ignore_frozen_in_eval_mode
from linetune import HOME
from linetune.adapter_config import drop_unwritten_loftq
from linetune.warning_lines import warning_line, warnings_in_one_line
from tests.tiny_texts import tiny_classifier, tiny_texts

# Own warnings about duplicates; peft, a frozen model and every validation make libraries warn.
RUNS = """
import sys
import cli
for more in (["--model.adapter", "peft.LoraConfig", "--model.adapter.target_modules", "all-linear"],
             ["--model.trainable", "head", "--model.optimizer", "optimizers.GLD"]):
    cli.main(["fit", "--data", "datamodules.TextDataModule", "--data.train_file", "rows.jsonl",
              "--data.max_length", "20", "--model.model", "tiny", *more, "--trainer.max_epochs", "1",
              "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"])
"""


def test_runs_of_lora_and_of_a_frozen_model_print_own_warnings_alone(tmp_path: Path) -> None:
    tiny_classifier(tmp_path / "tiny")
    with (tmp_path / "rows.jsonl").open("w") as stream:
        for number, text in enumerate(2 * tiny_texts(30)):
            stream.write(json.dumps({"text": text, "label": number % 2}) + "\n")
    environment = {**os.environ, "PYTHONPATH": str(HOME), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", RUNS], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    printed = done.stderr + done.stdout
    for unwanted in ("loftq_config", "in eval mode at", "LeafSpec", "is_gradient_checkpointing", "rank_zero_warn"):
        assert unwanted not in printed
    own = [line for line in done.stderr.splitlines() if "validation rows have exactly the text" in line]
    assert own
    assert all(line.startswith("linetune: warning: ") for line in own)


def test_a_warning_has_one_line_with_the_place_of_what_is_not_ours() -> None:
    own = HOME / "datamodules" / "split_report.py"
    assert warning_line("four rows", UserWarning, str(own), 42) == "linetune: warning: four rows\n"
    library = Path(sysconfig.get_path("purelib"), "lightning", "loop.py")
    assert (
        warning_line("few workers", FutureWarning, str(library), 7)
        == "lightning/loop.py:7: FutureWarning: few workers\n"
    )
    here = Path.cwd() / "my_module.py"
    assert warning_line("mine", UserWarning, str(here), 3) == "my_module.py:3: UserWarning: mine\n"
    before = warnings.formatwarning
    with warnings_in_one_line():
        assert warnings.formatwarning is warning_line
    assert warnings.formatwarning is before


def test_a_module_in_eval_mode_beside_the_frozen_ones_is_still_warned_of(tmp_path: Path) -> None:
    module = tiny_classifier(tmp_path, trainable="head")
    ignore_frozen_in_eval_mode(module.model)
    frozen = sum(not each.training for each in module.modules())
    assert frozen > 0
    for count, is_shown in ((frozen, False), (frozen + 1, True)):
        with warnings.catch_warnings(record=True) as caught:
            warnings.warn_explicit(
                f"Found {count} module(s) in eval mode at the start of training. This …",
                UserWarning,
                "fit_loop.py",
                428,
                module="lightning.pytorch.loops.fit_loop",
            )
        assert bool(caught) == is_shown


def test_peft_gets_the_options_of_loftq_that_were_written() -> None:
    def left(**options: object) -> bool:
        written = Namespace(**{"loftq_config": Namespace(loftq_bits=4, loftq_iter=1), "r": 8, **options})
        config = Namespace(model=Namespace(init_args=Namespace(adapter=Namespace(init_args=written))))
        drop_unwritten_loftq(config)
        return "loftq_config" in written

    assert vars(peft.LoftQConfig()) == {"loftq_bits": 4, "loftq_iter": 1}
    assert not left()
    assert left(loftq_config=Namespace(loftq_bits=8, loftq_iter=1))
    assert left(init_lora_weights="loftq")
    assert left(loftq_config=None)
    drop_unwritten_loftq(Namespace(model=Namespace(init_args=Namespace(adapter=None))))
