"""The status that a program ends with after Ctrl-C and SIGTERM."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.demos.boring_classes import BoringModel
from torch.utils.data import DataLoader

from linetune.exit_status import usual_status


class Signals(Callback):
    """Sends a signal to its own process in the first batch of an evaluation."""

    def __init__(self, number: int) -> None:
        self.number = number

    def on_validation_batch_end(self, *_: Any) -> None:
        os.kill(os.getpid(), self.number)


def validate(folder: Path, number: int) -> None:
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "default_root_dir": folder}
    trainer = Trainer(accelerator="cpu", callbacks=[Signals(number)], **quiet)
    trainer.validate(BoringModel(), DataLoader(torch.randn(8, 32)), verbose=False)


@pytest.mark.parametrize(("number", "expected", "lightnings"), [(signal.SIGINT, 130, 1), (signal.SIGTERM, 143, None)])
def test_an_evaluation_ends_with_the_usual_status(
    tmp_path: Path, number: int, expected: int, lightnings: int | None
) -> None:
    before = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(SystemExit) as ended:
            validate(tmp_path, number)
        assert ended.value.code == lightnings, "lightning ends with the usual status: see usual_status"
        signal.signal(signal.SIGINT, before)
        with pytest.raises(SystemExit) as ended, usual_status():
            validate(tmp_path, number)
        assert ended.value.code == expected
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_ends_stay_as_they_are() -> None:
    with pytest.raises(SystemExit) as ended, usual_status():
        raise SystemExit(2)
    assert ended.value.code == 2
    with pytest.raises(SystemExit) as ended, usual_status():
        raise KeyboardInterrupt
    assert ended.value.code == 130
    with pytest.raises(ValueError, match="as it was"), usual_status():
        raise ValueError("as it was")
