"""Checkpoints that are not whole, or of another run: one line, where torch and Lightning go on or raise a KeyError."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from callbacks import AtomicCheckpointIO
from lightning_modules import ClosureModule, ModelError
from optimizers import AdamSLS, ParabolicAdam, SaLSA
from tests.quiet_trainer import quiet_trainer

OPTIMIZERS: dict[str, Callable[..., Any]] = {
    "ParabolicAdam": ParabolicAdam,
    "AdamSLS": AdamSLS,
    "SaLSA": SaLSA,
    "AdamW": torch.optim.AdamW,
}


class Stateful(nn.Linear):
    """A layer that saves more than tensors."""

    def get_extra_state(self) -> dict[str, int]:
        return {"calls": 3}

    def set_extra_state(self, state: dict[str, int]) -> None:
        assert state == {"calls": 3}


class Small(ClosureModule):
    """A linear regression with a buffer that is not a number on purpose."""

    def __init__(self, optimizer: str = "AdamW") -> None:
        super().__init__(optimizer=OPTIMIZERS[optimizer])
        self.body, self.head = nn.Linear(4, 2), Stateful(2, 2)
        self.register_buffer("unknown", torch.tensor(float("nan")))

    def compute_loss(self, batch: Tensor) -> Tensor:
        return (self.head(self.body(batch)) - batch.sum(1, keepdim=True)).square().mean()


def trainer(folder: Path, epochs: int) -> Trainer:
    plugins: list[Any] = [AtomicCheckpointIO()]
    return quiet_trainer(max_epochs=epochs, enable_checkpointing=True, default_root_dir=folder, plugins=plugins)


def rows() -> DataLoader:
    return DataLoader(torch.randn(32, 4, generator=torch.Generator().manual_seed(1)), batch_size=8)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """A checkpoint of a fit with each optimizer."""
    folder, found = tmp_path_factory.mktemp("whole"), {}
    for name in OPTIMIZERS:
        made = trainer(folder / name, 1)
        made.fit(Small(name), rows())
        made.save_checkpoint(folder / f"{name}.ckpt")
        found[name] = torch.load(folder / f"{name}.ckpt", weights_only=True)
    return found


def resumed(folder: Path, name: str, checkpoint: dict[str, Any]) -> int:
    """Resume from a checkpoint and return the step at which the run has ended."""
    torch.save(checkpoint, folder / "changed.ckpt")
    run = trainer(folder, 2)
    run.fit(Small(name), rows(), ckpt_path=folder / "changed.ckpt")
    return run.global_step


def dropped(*path: Any) -> Callable[[dict[str, Any]], None]:
    """Return what takes an entry out of a checkpoint."""

    def drop(checkpoint: Any) -> None:
        for key in path[:-1]:
            checkpoint = checkpoint[key]
        del checkpoint[path[-1]]

    return drop


def emptied(checkpoint: dict[str, Any]) -> None:
    checkpoint["optimizer_states"] = []


def not_a_number(checkpoint: dict[str, Any]) -> None:
    checkpoint["state_dict"]["body.weight"][1, 2] = float("nan")


def of_another_shape(checkpoint: dict[str, Any]) -> None:
    checkpoint["optimizer_states"][0]["state"][0]["exp_avg"] = torch.zeros(3)


def changed_to(value: Any, *path: Any) -> Callable[[dict[str, Any]], None]:
    """Return what puts something in the place of an entry of a checkpoint, or what a function makes of that entry."""

    def change(checkpoint: Any) -> None:
        for key in path[:-1]:
            checkpoint = checkpoint[key]
        checkpoint[path[-1]] = value(checkpoint[path[-1]]) if callable(value) else value

    return change


GROUP = ("optimizer_states", 0, "param_groups", 0)
STATE = ("optimizer_states", 0, "state", 0)
BATCHES = ("loops", "fit_loop", "epoch_loop.batch_progress")


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (dropped("optimizer_states"), "the checkpoint has no optimizer_states, as under save_weights_only: fit cannot"),
        (dropped("loops"), "the checkpoint has no loops"),
        (dropped("callbacks"), "the checkpoint has no callbacks"),
        (dropped("lr_schedulers"), "the checkpoint has no lr_schedulers"),
        (emptied, "the checkpoint holds the state of no optimizer"),
        (dropped("state_dict", "body.weight"), r"body\.weight is absent in the checkpoint"),
        (not_a_number, r"damaged or of a diverged run: body\.weight holds NaN"),
        (dropped(*GROUP, "lr"), "groups lack lr"),
        (dropped(*GROUP, "params"), "is not whole"),
        (dropped("optimizer_states", 0, "param_groups"), "is not whole: KeyError"),
        (dropped("optimizer_states", 0, "state"), "is not whole: KeyError"),
        (dropped("optimizer_states", 0, "state", 0, "exp_avg_sq"), "parameter 0 lacks exp_avg_sq"),
        (changed_to(None, "hyper_parameters"), "hyper_parameters of the checkpoint is a NoneType, not a dict"),
        (changed_to([], "state_dict"), "state_dict of the checkpoint is a list, not a dict"),
        (changed_to(None, "optimizer_names"), "optimizer_names of the checkpoint is a NoneType, not a list"),
        (changed_to({}, "loops"), r"the checkpoint has no loops\.fit_loop"),
        (dropped(*BATCHES, "current"), r"has no loops\.fit_loop\.epoch_loop\.batch_progress\.current"),
        (
            changed_to(-1, *BATCHES, "total", "ready"),
            r"batch_progress\.total\.ready of the checkpoint is -1, not a num",
        ),
        (changed_to("3", "global_step"), "global_step of the checkpoint is a str, not a number"),
        (changed_to(Tensor.long, "state_dict", "body.weight"), r"body\.weight is of torch\.int64 in the checkpoint"),
        (changed_to("0.1", *GROUP, "lr"), "lr of a group is '0.1', of the run's "),
        (changed_to(float("nan"), *GROUP, "lr"), "lr of a group is nan, of the run's "),
        (changed_to(3, *GROUP, "betas"), "betas of a group is 3, of the run's "),
        (changed_to("x", *GROUP, "eps"), "eps of a group is 'x', of the run's "),
        (changed_to(None, *STATE, "exp_avg"), "exp_avg of parameter 0 is of type NoneType"),
        (changed_to(Tensor.long, *STATE, "exp_avg"), r"exp_avg of parameter 0 is of torch\.int64"),
        (changed_to("x", *STATE, "step"), "step of parameter 0 is 'x'"),
        (of_another_shape, r"exp_avg of parameter 0 is \(3,\), the parameter \(2, 4\)"),
    ],
)
def test_half_a_checkpoint_is_one_line(
    checkpoints: dict[str, dict[str, Any]],
    tmp_path: Path,
    name: str,
    change: Callable[[dict[str, Any]], None],
    expected: str,
) -> None:
    changed = copy.deepcopy(checkpoints[name])
    change(changed)
    with pytest.raises(ModelError, match=rf"^ckpt_path: .*{expected}") as error:
        resumed(tmp_path, name, changed)
    assert "\n" not in str(error.value)


def test_an_entry_of_another_kind_is_one_line_without_a_trainer_too(
    checkpoints: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    torch.save(checkpoints["AdamW"] | {"hyper_parameters": None}, tmp_path / "changed.ckpt")
    with pytest.raises(ModelError, match="hyper_parameters of the checkpoint is a NoneType, not a dict"):
        Small.load_from_checkpoint(tmp_path / "changed.ckpt")


@pytest.mark.parametrize(("name", "counter"), [("AdamSLS", "searches"), ("SaLSA", "steps_since_search")])
def test_a_searchs_counters_do_not_start_anew_without_a_word(
    checkpoints: dict[str, dict[str, Any]], tmp_path: Path, name: str, counter: str
) -> None:
    changed = copy.deepcopy(checkpoints[name])
    del changed["optimizer_states"][0]["param_groups"][0][counter]
    with pytest.raises(ModelError, match=f"its groups lack {counter}"):
        resumed(tmp_path, name, changed)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_whole_ones_are_taken(checkpoints: dict[str, dict[str, Any]], tmp_path: Path, name: str) -> None:
    changed = copy.deepcopy(checkpoints[name])
    assert resumed(tmp_path, name, changed) > changed["global_step"]
    # An option that came with a later version of torch is filled in by the optimizer itself.
    if name == "AdamW":
        del changed["optimizer_states"][0]["param_groups"][0]["decoupled_weight_decay"]
        assert resumed(tmp_path, name, changed) > changed["global_step"]


def test_a_parameter_without_state_is_said(
    checkpoints: dict[str, dict[str, Any]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    changed = copy.deepcopy(checkpoints["AdamW"])
    del changed["optimizer_states"][0]["state"][1]
    with caplog.at_level("INFO"):
        resumed(tmp_path, "AdamW", changed)
    assert (
        "1 parameters have no state of AdamW in the checkpoint, as before a first step; it starts anew" in caplog.text
    )


class Unknown:
    """A class that weights_only refuses."""


def test_a_class_that_is_not_read_is_named_when_resuming_alone(
    checkpoints: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    changed = copy.deepcopy(checkpoints["AdamW"])
    changed["optimizer_states"][0]["state"][0]["memory"] = Unknown()
    with pytest.raises(ModelError, match=rf"optimizer_states of the checkpoint cannot .*{__name__}\.Unknown"):
        resumed(tmp_path, "AdamW", changed)
    small = Small("AdamW")
    (scores,) = trainer(tmp_path, 1).validate(small, rows(), ckpt_path=tmp_path / "changed.ckpt")
    assert torch.equal(small.body.weight, changed["state_dict"]["body.weight"])
    assert scores["val/loss"] > 0


def test_a_file_that_is_not_whole_is_not_loaded_without_a_trainer_either(
    checkpoints: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    file, weights = tmp_path / "a.ckpt", checkpoints["AdamW"]["state_dict"]
    torch.save(checkpoints["AdamW"], file)
    for path in (file, str(file)):
        assert torch.equal(Small.load_from_checkpoint(path).body.weight, weights["body.weight"])
    whole = file.read_bytes()
    place = whole.index(weights["body.weight"].numpy().tobytes())
    flipped = whole[: place + 1] + bytes([whole[place + 1] ^ 1]) + whole[place + 2 :]  # torch would load it
    for content in (flipped, whole[:-1], whole[: len(whole) // 2], bytes(500), b"", b"text", b"PK"):
        file.write_bytes(content)
        refused_by_load(file, "is damaged: the checksum" if content is flipped else "is not a whole checkpoint: ")
    for held in (weights, [1], weights["body.weight"], {"state_dict": weights}):
        torch.save(held, file)
        refused_by_load(file, "is not a checkpoint of Lightning: ")
    torch.save(checkpoints["AdamW"] | {"unknown": Small}, file)
    refused_by_load(file, "is not a checkpoint that torch reads with weights_only=True: ")
    assert Small.load_from_checkpoint(file, weights_only=False).body.weight.shape == (2, 4)
    refused_by_load(tmp_path, "is not a whole checkpoint: ")
    with pytest.raises(FileNotFoundError, match=r"none\.ckpt"):
        Small.load_from_checkpoint(tmp_path / "none.ckpt")


def refused_by_load(path: Path, reason: str) -> None:
    with pytest.raises(ModelError) as error:
        Small.load_from_checkpoint(path)
    assert str(error.value).startswith(f"{path} {reason}")
    assert "\n" not in str(error.value)
