"""What the folder of a trained model tells about the data, so that it predicts without its training rows."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from pydoc import locate
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch.utilities import rank_zero_info

from lightning_modules import ModelError
from lightning_modules.models.pretrained import reading_of, task_of

# How a model reads long texts, which no rows tell.
_OF_MODEL = ("max_length", "long_texts", "max_windows", "window_overlap")


def fill_in_from_model(config: Namespace, subcommand: str, arguments: Sequence[str]) -> None:
    """Fill in kind of task, label names, columns and maximum length from the model's config.json, and say so in a line.

    Only what is left out is filled in, and only where the model is used as it is: without a checkpoint. For `validate`
    and `test` training rows tell the task and the columns themselves, if there are any; what is predicted has the names
    that the model has for it.

    Args:
        config: The configuration of the subcommand; changed in place.
        subcommand: The subcommand; nothing is done for `fit`.
        arguments: The command line's: what is given there stays, also if it is the default.

    Raises:
        ModelError: if the model is a folder that does not exist, which would be told as training rows that are missing.
    """
    data, model = config.data.init_args, config.model.init_args.get("model")
    if subcommand == "fit" or config.get("ckpt_path") or "train_file" not in data or not model:
        return
    # A name on the hub has one slash at most.
    if model.count("/") > 1 and not Path(model).expanduser().exists():
        raise ModelError(f"model: there is no folder {model}")
    try:
        found = {**reading_of(model), **task_of(model)}
        if subcommand != "predict" and (data.get("train_file") or data.get("dataset")):
            found = {name: value for name, value in found.items() if name in _OF_MODEL}
    except ModelError:
        return  # not a trained model; what is missing then is named where it is needed
    parameters = inspect.signature(locate(config.data.class_path)).parameters  # type: ignore[arg-type]
    taken: dict[str, Any] = {}
    options = [argument.partition("=")[0].rstrip("+") for argument in arguments if argument.startswith("--data.")]
    given = {option.rpartition(".")[2] for option in options}
    for name, value in found.items():
        if name not in data or name in given or data[name] != (default := parameters[name].default):
            continue
        if value not in (None, [], default):
            data[name] = taken[name] = value
    if taken:
        rank_zero_info(f"{model}: {', '.join(f'{name} {_shown(value)}' for name, value in taken.items())}")


def _shown(value: Any) -> str:
    if not isinstance(value, list):
        return str(value)
    return " ".join(map(str, value[:10])) + f" ... ({len(value)})" * (len(value) > 10)
