"""A trained classifier as a folder that transformers loads by itself."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lightning_modules.batches.input_limits import longest_input
from lightning_modules.errors import ModelError
from lightning_modules.models.adapters import AdaptedModel
from lightning_modules.models.pretrained import READING_KEY, quiet_transformers
from lightning_modules.trained_model.model_card import model_card

if TYPE_CHECKING:
    from lightning_modules.trained_model.trained_classifier import TrainedClassifier

_MODEL_PREFIX = "model."


def export_model(
    classifier: TrainedClassifier,
    folder: str | Path,
    tokenizer: PreTrainedTokenizerBase,
    *,
    weights: Mapping[str, Tensor] | None = None,
    facts: Mapping[str, Any] | None = None,
    onnx: bool = False,
) -> Path:
    """Write a classifier as a folder that ``transformers`` loads without linetune.

    The folder holds ``config.json`` with the labels' names, the problem type and how texts were read,
    ``model.safetensors``, the tokenizer and a model card, ``README.md``. An adapter of peft
    is merged into the weights. Standardised targets of a regression are worked into the last layer, so that the
    model's outputs are in the targets' own unit. The folder appears whole or not at all.

    Args:
        classifier: The trained module; it stays as it is.
        folder: Where to write; must not exist yet, or be empty.
        tokenizer: What the model's texts are tokenized with.
        weights: State of the module in place of its own: a checkpoint's ``state_dict``.
        facts: What the model card states, see :func:`~lightning_modules.trained_model.model_card.model_card`; and
            options of the datamodule for ``config.json``, ``reading``.
        onnx: Whether to write ``model.onnx`` as well; needs the extra ``onnx``.

    Returns:
        The folder.

    Raises:
        ModelError: if the folder holds files, or the model cannot be expressed by transformers alone.
    """
    facts = dict(facts or {})
    with new_folder(folder) as unfinished, quiet_transformers():
        model = plain_model(classifier, weights)
        # transformers keeps entries that it does not know.
        setattr(model.config, READING_KEY, facts.get("reading") or {})
        model.save_pretrained(unfinished)
        own = tokenizer_of(model, tokenizer, facts.get("max_length"))
        own.padding_side = classifier.padding.side_for(own.padding_side)
        own.save_pretrained(unfinished)
        if onnx:
            from lightning_modules.trained_model.onnx_export import write_onnx

            write_onnx(model, own, unfinished / "model.onnx")
        base = str(classifier.hparams.get("model", ""))
        text = model_card(model.config, base, facts, onnx=onnx)
        (unfinished / "README.md").write_text(text, encoding="utf-8")
    return Path(folder)


def export_onnx(classifier: TrainedClassifier, file: str | Path, tokenizer: PreTrainedTokenizerBase) -> Path:
    """Write a classifier as an ONNX file alone: the tokenizer's inputs, of any batch and length, and ``logits``.

    Args:
        classifier: The trained module; it stays as it is.
        file: Where to write; replaced if it exists. It appears whole or not at all.
        tokenizer: What the model's texts are tokenized with, which tells the inputs.

    Returns:
        The file.

    Raises:
        ModelError: if the extra ``onnx`` is not installed, or torch cannot export the model.
    """
    from lightning_modules.trained_model.onnx_export import write_onnx

    file = Path(file).expanduser().absolute()
    with quiet_transformers(), tempfile.TemporaryDirectory(dir=file.parent, prefix=f".{file.name}.") as unfinished:
        model = plain_model(classifier)
        write_onnx(model, tokenizer_of(model, tokenizer), Path(unfinished) / file.name)
        # The weights of a large model are in a file beside it, which has to be there first.
        for part in sorted(Path(unfinished).iterdir(), reverse=True):
            part.replace(file.with_name(part.name))
    return file


def export_adapter(
    classifier: TrainedClassifier, folder: str | Path, weights: Mapping[str, Tensor] | None = None
) -> Path:
    """Write a classifier's adapter and head alone: in peft's own format, or the same layout for bottleneck adapters.

    Args:
        classifier: A module with an adapter; it stays as it is.
        folder: Where to write; must not exist yet, or be empty. ``SequenceClassifier(adapter=folder)`` reads it.
        weights: State of the module in place of its own: a checkpoint's ``state_dict``.

    Raises:
        ModelError: if the folder holds files, or the module has no adapter.
    """
    copy = _copy(classifier, weights)
    if not isinstance(copy, AdaptedModel):
        raise ModelError("adapter: the module was made without one")
    with new_folder(folder) as unfinished:
        copy.save(unfinished)
    return Path(folder)


def plain_model(classifier: TrainedClassifier, weights: Mapping[str, Tensor] | None = None) -> PreTrainedModel:
    """Return a copy of a classifier's Hugging Face model whose logits are the classifier's, on the CPU, in eval mode.

    Args:
        classifier: The module; it stays as it is.
        weights: State of the module in place of its own.

    Raises:
        ModelError: if its adapter cannot be merged, or its head has no bias for the mean of standardised targets.
    """
    copy = _copy(classifier, weights)
    model: Any = copy.merge() if isinstance(copy, AdaptedModel) else copy
    if (classifier.target_mean, classifier.target_std) != (0.0, 1.0):
        fold_targets(model, classifier.target_mean, classifier.target_std)
    return model.requires_grad_(True).eval()


@torch.no_grad()
def fold_targets(model: nn.Module, mean: float, std: float) -> None:
    """Work ``mean + std · output`` into the last layer of a model with one output.

    Raises:
        ModelError: if the last layer cannot be told, or has no bias and the mean is not zero.
    """
    single = _with_one_output(model)
    if len(single) != 1:
        raise ModelError(f"export: {len(single)} layers with one output in {type(model).__name__}; one is expected")
    layer = single[0]
    if layer.bias is None and mean != 0:
        raise ModelError(
            f"export: the last layer of {type(model).__name__} has no bias, which the targets' mean of {mean:g} needs"
        )
    layer.weight.mul_(std)
    if layer.bias is not None:
        layer.bias.mul_(std).add_(mean)


def can_hold_mean(model: nn.Module) -> bool:
    """Return whether the last layer of a model with one output has a bias; GPT-2's and Llama's have none."""
    return any(layer.bias is not None for layer in _with_one_output(model))


def _with_one_output(model: nn.Module) -> list[nn.Linear]:
    return [module for module in model.modules() if isinstance(module, nn.Linear) and module.out_features == 1]


def tokenizer_of(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, max_length: int | None = None
) -> PreTrainedTokenizerBase:
    """Return a copy of a tokenizer as a model needs it outside of linetune.

    It pads with the token that the model's configuration names, by which decoders find the last token, and with
    ``truncation=True`` it cuts at the length that the model was trained with, or that it is made for.
    """
    own = deepcopy(tokenizer)
    pad = getattr(model.config, "pad_token_id", None)
    # A word that became the padding token would be found within other words.
    is_word = own.pad_token is not None and pad not in own.added_tokens_decoder
    if pad is not None and own.pad_token_id != pad and not is_word:
        own.pad_token = own.convert_ids_to_tokens(pad)
    own.model_max_length = max_length or min(own.model_max_length, longest_input(model))
    if own.is_fast:
        # The file states the settings of the tokenizer's last call otherwise, or those of the model it came with.
        own.backend_tokenizer.no_padding()
        own.backend_tokenizer.enable_truncation(own.model_max_length, direction=own.truncation_side)
    return own


@contextmanager
def new_folder(folder: str | Path) -> Iterator[Path]:
    """Give a folder to write into beside ``folder``, and rename it to ``folder`` at the end, unless an error came up.

    Raises:
        ModelError: if ``folder`` exists and is not an empty folder, or cannot be written, as on a full disk.
    """
    folder = Path(folder).expanduser().absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ModelError(f"export: {folder} exists; name a new or an empty folder")
    unfinished = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(unfinished, ignore_errors=True)  # of a killed process that had this one's number
    try:
        unfinished.mkdir(parents=True)
    except OSError as error:
        raise ModelError(f"export: cannot make {folder}: {error.strerror}") from error
    try:
        yield unfinished
        unfinished.replace(folder)
    except Exception as error:
        # Of safetensors (0.8) and tokenizers (0.23), which are written in Rust; the latter's is a bare Exception.
        refused = re.search(r"(?:.*: )?(.+) \(os error \d+\)", str(error))
        reason = error.strerror if isinstance(error, OSError) else refused[1] if refused else None
        if reason is None:
            raise
        raise ModelError(f"export: cannot write {folder}: {reason}; nothing of it is left") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _copy(classifier: TrainedClassifier, weights: Mapping[str, Tensor] | None) -> AdaptedModel | nn.Module:
    copy = deepcopy(classifier.adapted or classifier.model)
    model = copy.model if isinstance(copy, AdaptedModel) else copy
    model.cpu()
    if weights is not None:
        own = {
            name.removeprefix(_MODEL_PREFIX): value for name, value in weights.items() if name.startswith(_MODEL_PREFIX)
        }
        try:
            model.load_state_dict(own)
        except RuntimeError as error:
            raise ModelError(f"export: the weights are of another model: {' '.join(str(error).split())}") from error
    return copy
