"""What the folder of a trained model tells about the data, so that it predicts without its training rows."""

from __future__ import annotations

import inspect
from pathlib import Path
from pydoc import locate
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch.utilities import rank_zero_info

from lightning_modules import ModelError
from lightning_modules.models.pretrained import reading_of, task_of


def fill_in_from_model(config: Namespace, subcommand: str) -> None:
    """Fill in kind of task, label names, columns and maximum length from the model's config.json, and say so in a line.

    Only what is left out is filled in, and only where the model is used as it is: without a checkpoint, and without
    training rows, which tell the task themselves.

    Args:
        config: The configuration of the subcommand; changed in place.
        subcommand: The subcommand; nothing is done for `fit`.

    Raises:
        ModelError: if the model is a folder that does not exist, which would be told as training rows that are missing.
    """
    data, model = config.data.init_args, config.model.init_args.get("model")
    has_rows = data.get("train_file") or data.get("dataset")
    if subcommand == "fit" or config.get("ckpt_path") or has_rows or "train_file" not in data or not model:
        return
    # A name on the hub has one slash at most.
    if model.count("/") > 1 and not Path(model).expanduser().exists():
        raise ModelError(f"model: there is no folder {model}")
    try:
        found = {**reading_of(model), **task_of(model)}
    except ModelError:
        return  # not a trained model; what is missing then is named where it is needed
    parameters = inspect.signature(locate(config.data.class_path)).parameters  # type: ignore[arg-type]
    taken: dict[str, Any] = {}
    for name, value in found.items():
        if name in data and data[name] == parameters[name].default and value:
            data[name] = taken[name] = value
    if taken:
        said = ", ".join(
            f"{name} {_shown(value)}" for name, value in taken.items() if value != parameters[name].default
        )
        rank_zero_info(f"{model}: {said}")


def _shown(value: Any) -> str:
    if not isinstance(value, list):
        return str(value)
    return " ".join(map(str, value[:10])) + f" ... ({len(value)})" * (len(value) > 10)
