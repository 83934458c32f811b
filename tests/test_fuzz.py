"""Bad input of any shape: one error of the kinds that end in one line, and never another one."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonargparse import Namespace
from lightning.pytorch.utilities.exceptions import MisconfigurationException

import optimizers
from datamodules import TASKS, DataError
from datamodules.glue.glue_folder_source import FolderSource
from linetune.trainer_section import check_trainer_numbers
from optimizers import GLD, SGDSLS, AdamSLS, AdamWL2SP, LineSearchMeZO, MeZO, ParabolicAdam, SaLSA
from tests.glue_files import FILES, write_glue_folder

ARGUMENTS: dict[type[torch.optim.Optimizer], tuple[str, ...]] = {
    AdamSLS: ("c", "initial_step_size", "growth", "weight_decay", "shrink", "max_trials", "eps", "steps_per_epoch"),
    SaLSA: ("c", "initial_step_size", "smoothing", "weight_decay", "shrink", "max_trials"),
    SGDSLS: ("c", "initial_step_size", "momentum", "weight_decay", "shrink", "max_trials"),
    ParabolicAdam: ("peak_fraction", "total_steps", "eps", "weight_decay", "initial_step_size", "max_trials"),
    AdamWL2SP: ("lr", "eps", "anchor_decay", "weight_decay"),
    GLD: ("radius", "num_radii", "shrink", "rounds", "success_rate", "norm_weight", "units_per_round", "copy_limit"),
    MeZO: ("lr", "epsilon", "weight_decay", "copy_limit"),
    LineSearchMeZO: ("step_size", "c", "shrink", "growth", "max_trials", "epsilon"),
}
NUMBERS = st.one_of(
    st.sampled_from([0, 1, -1, 0.0, 0.5, 1.0, -0.5, 1e-300, 1e30, math.nan, math.inf, -math.inf]),
    st.floats(-3, 3, allow_nan=False),
    st.integers(-5, 50),
)


@pytest.mark.parametrize("make", ARGUMENTS)
@settings(max_examples=60, derandomize=True)
@given(data=st.data())
def test_numbers_that_an_optimizer_takes_train_and_others_are_a_value_error(make: Any, data: st.DataObject) -> None:
    names = data.draw(st.lists(st.sampled_from(ARGUMENTS[make]), unique=True, min_size=1, max_size=3))
    chosen = {name: data.draw(NUMBERS, label=name) for name in names}
    weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    try:
        optimizer = make([weight], **chosen)
    except ValueError as error:
        refusal = str(error)
    else:
        refusal = ""
    if refusal:
        named = [*ARGUMENTS[make], "heavy_ball"]  # what `momentum` of SGDSLS becomes
        assert any(name in refusal for name in named), refusal
        return

    def evaluate() -> torch.Tensor:
        return weight.square().sum()

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = evaluate()
        loss.backward()
        return loss

    takes = {"evaluate": evaluate} if make is not AdamWL2SP else {}
    for _ in range(2):
        optimizer.step(closure, **takes)
    assert optimizers.traits(make) == optimizers.traits(optimizer)


@settings(max_examples=120, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_bytes_of_a_tsv_file_are_read_or_refused_with_the_files_name(tmp_path: Path, data: st.DataObject) -> None:
    task = data.draw(st.sampled_from(["cola", "sst2", "mrpc", "qqp", "stsb", "rte"]))
    folder = tmp_path / "glue"
    if not folder.exists():
        write_glue_folder(folder)
    path = folder / TASKS[task].folder / "dev.tsv"
    content = bytearray(FILES[TASKS[task].folder]["dev.tsv"].encode())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content)))
        kind = data.draw(st.sampled_from(["insert", "delete", "cut", "swap"]))
        some = data.draw(st.one_of(st.binary(max_size=4), st.sampled_from([b"\t", b"\n", b"\r", b"\0", b'"', b"\xff"])))
        if kind == "insert":
            content[at:at] = some
        elif kind == "delete":
            del content[at : at + 3]
        elif kind == "cut":
            del content[at:]
        else:
            content[at : at + len(some)] = some
    path.write_bytes(bytes(content))
    try:
        count, refusal = len(FolderSource(TASKS[task], str(folder)).read("validation")), "dev.tsv"
    except DataError as error:
        count, refusal = 1, str(error)
    assert count > 0
    assert "dev.tsv" in refusal
    assert "\n" not in refusal


@pytest.mark.parametrize(
    ("trainer", "line"),
    [
        ({"val_check_interval": 0}, "trainer.val_check_interval: 0 is not allowed"),
        ({"val_check_interval": 0.0}, "trainer.val_check_interval: 0.0 is not allowed"),
        ({"check_val_every_n_epoch": 0}, "trainer.check_val_every_n_epoch: 0 is not allowed"),
        ({"check_val_every_n_epoch": -2}, "trainer.check_val_every_n_epoch: -2 is not allowed"),
        ({"logger": Namespace(init_args=Namespace(max_queue="x"))}, "trainer.logger.max_queue: 'x' is not allowed"),
        ({"logger": [Namespace(dict_kwargs={"flush_secs": "y"})]}, "trainer.logger.flush_secs: 'y' is not allowed"),
        ({"logger": [Namespace(dict_kwargs={"filename_suffix": [1]})]}, r"filename_suffix: \[1\] is not .*; a text"),
        ({"logger": [Namespace(dict_kwargs={"purge_step": []})]}, r"purge_step: \[\] is not .*; 0 to 2147483647"),
        ({"logger": [Namespace(dict_kwargs={"flush_secs": 10**30})]}, "flush_secs: 1.* is not allowed; 0 to 21474"),
        ({"devices": 10**30}, "trainer.devices: 1.* is not allowed; 100000 at most"),
    ],
)
def test_numbers_of_the_trainer_are_looked_at_before_a_run_starts(trainer: dict[str, Any], line: str) -> None:
    """Lightning 2.6.6 divides by such integers in the first epoch, and takes 0.0 for each batch; others come later."""
    with pytest.raises(MisconfigurationException, match=line):
        check_trainer_numbers(Namespace(**trainer))
    with pytest.raises(MisconfigurationException, match=r"trainer: -0\.0 is not allowed; a section"):
        check_trainer_numbers(-0.0)
    check_trainer_numbers(Namespace(val_check_interval=1.0, check_val_every_n_epoch=None, logger=True))
    check_trainer_numbers(Namespace(val_check_interval=5, logger=[False, Namespace(init_args=None)]))
    kept = {"max_queue": 5, "flush_secs": 1, "purge_step": None, "filename_suffix": ".x"}
    check_trainer_numbers(Namespace(logger=Namespace(dict_kwargs=kept)))
