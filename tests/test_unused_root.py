"""The folder that a configuration file gives to the logger, beside a default_root_dir of the command line."""

from __future__ import annotations

import pytest
from jsonargparse import Namespace

from linetune.unused_root import warn_of_unused_root

ROOT = "--trainer.default_root_dir"
TENSORBOARD = Namespace(class_path="lightning.pytorch.loggers.TensorBoardLogger", init_args=Namespace(save_dir="runs"))
NO_FOLDER = Namespace(class_path="lightning.pytorch.loggers.MLFlowLogger", init_args=Namespace(save_dir=None))


@pytest.mark.parametrize("logger", [TENSORBOARD, [TENSORBOARD, NO_FOLDER]])
@pytest.mark.parametrize("arguments", [[f"{ROOT}=here"], [ROOT, "here"]])
def test_a_root_beside_the_folder_of_a_configured_logger_is_warned_of(logger: object, arguments: list[str]) -> None:
    with pytest.warns(UserWarning, match=r"is written to runs, .* not to here; give --trainer.logger.save_dir here$"):
        warn_of_unused_root(Namespace(logger=logger), ["fit", *arguments])


@pytest.mark.parametrize(
    ("logger", "arguments"),
    [
        (TENSORBOARD, []),
        (TENSORBOARD, [f"{ROOT}=here", "--trainer.logger.save_dir=there"]),
        (TENSORBOARD, [f"{ROOT}=here", "--trainer.logger.init_args.save_dir", "there"]),
        (NO_FOLDER, [f"{ROOT}=here"]),
        (None, [f"{ROOT}=here"]),
        (True, [f"{ROOT}=here"]),
        (False, [f"{ROOT}=here"]),
        ([], [f"{ROOT}=here"]),
    ],
)
def test_a_root_that_is_used_or_was_not_asked_for_is_not(
    logger: object, arguments: list[str], recwarn: pytest.WarningsRecorder
) -> None:
    warn_of_unused_root(Namespace(logger=logger), ["fit", *arguments])
    assert not recwarn
