"""Values of a configuration that are filled in: the model's from the data, or both from a checkpoint."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pydoc import locate
from typing import Any

from jsonargparse import Namespace

from lightning_modules import ModelError

# What the data knows and the model needs; written once, in the data's section.
DATA_TO_MODEL = ("num_labels", "label_names", "metrics", "eval_set_names", "problem_type")
# What a data module of one's own texts has found out, so that a later command need not read the training rows again.
FOUND_IN_DATA = ("text_columns", "label_column", "problem_type", "label_names")


def fill_in(config: Namespace, saved: Mapping[str, Mapping[str, Any]]) -> None:
    """Fill in what a configuration leaves out and a checkpoint holds, and the tokenizer: that of the model.

    Args:
        config: The configuration of the subcommand; changed in place.
        saved: What the checkpoint holds for the sections ``model`` and ``data``.

    Raises:
        ModelError: if the model's section gives what the data has.
    """
    data, model, data_class = config.data.init_args, config.model.init_args, locate(config.data.class_path)
    for name, found in saved["data"].items():
        if name in data and not data[name]:
            data[name] = found
    parameters = inspect.signature(locate(config.model.class_path)).parameters  # type: ignore[arg-type]
    for name in filter(parameters.__contains__, DATA_TO_MODEL):
        default = parameters[name].default
        is_given = name in model and model[name] != (list(default) if isinstance(default, tuple) else default)
        if is_given and hasattr(data_class, name):
            raise ModelError(f"model.{name}: it is taken from {config.data.class_path}; leave it out")
        if not is_given and name in saved["model"]:
            model[name] = saved["model"][name]
    if "tokenizer" in data and data.tokenizer is None:
        data.tokenizer = model.get("model")
