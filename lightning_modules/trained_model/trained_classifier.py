"""Using a trained classifier: predictions for plain texts, and folders for transformers and peft."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from lightning.pytorch import LightningModule
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from lightning_modules.batches.input_limits import check_length, check_vocabulary, longest_input
from lightning_modules.batches.padding import Padding
from lightning_modules.errors import ModelError
from lightning_modules.losses import ProblemType, TaskLoss
from lightning_modules.models.adapters import AdaptedModel
from lightning_modules.models.pretrained import task_of
from lightning_modules.trained_model.export import export_adapter, export_model, export_onnx
from lightning_modules.trained_model.model_tokenizer import load_model_tokenizer
from lightning_modules.trained_model.text_prediction import (
    Text,
    checked_texts,
    named_predictions,
    predict_outputs,
)


class TrainedClassifier(LightningModule):
    """Base class of :class:`~lightning_modules.SequenceClassifier`: what it offers outside a Trainer.

    Attributes:
        model: The Hugging Face model, perhaps with an adapter.
        adapted: The adapter, if there is one.
        num_labels: Number of labels; 1 for regression.
        label_names: Names of the labels, in order.
        problem_type: Kind of task.
        task_loss: The loss, with the scale of regression targets.
        temperature: What the callback Calibration has found to divide logits by; 1 without it.
        calibrated_predictions: Whether probabilities are of logits divided by it.
        padding: What padding does to the model's logits.
        trust_remote_code: Whether a hub repository may run code of its own.
    """

    model: nn.Module
    adapted: AdaptedModel | None
    num_labels: int
    label_names: Sequence[str]
    problem_type: ProblemType
    temperature: float
    calibrated_predictions: bool
    task_loss: TaskLoss
    padding: Padding
    trust_remote_code: bool

    @classmethod
    def from_exported(cls, folder: str | Path, **arguments: Any) -> Self:
        """Return the classifier of a folder that :meth:`export` wrote, labels and kind of task included.

        Args:
            folder: The folder, or the name of a repository on the hub that holds it.
            arguments: Other arguments of the class, to train it further.

        Example::

            SequenceClassifier.from_exported("runs/own_data/version_0/model").predict_texts(["Not bad at all."])
        """
        return cls(str(folder), **task_of(str(folder)), **arguments)

    def predict_texts(
        self,
        texts: Iterable[Text],
        tokenizer: PreTrainedTokenizerBase | None = None,
        max_length: int | None = None,
        tokens_per_batch: int | None = None,
    ) -> list[dict[str, Any]]:
        """Predict plain texts: a dict per text, in their order.

        Args:
            texts: Texts, or pairs of texts as tuples; a list, an array, a column of a table.
            tokenizer: What the model was trained with. Default: the one of the model's folder or name.
            max_length: Longer texts are cut to so many tokens. Default: as many as tokenizer and model take.
            tokens_per_batch: Tokens of a batch, padding included, at most. Default: 2048 on a CPU, 16384 elsewhere.

        Returns:
            Of each text ``label``, ``score`` (the label's probability) and ``probabilities`` by label; with any number
            of labels per text, ``labels`` and ``probabilities``; for regression, ``score``.

        Raises:
            ModelError: if ``texts`` holds something else, or there is no tokenizer.

        Example::

            SequenceClassifier("my/model", num_labels=2).predict_texts(["Not bad at all."])
        """
        texts = checked_texts(texts)
        tokenizer = self.own_tokenizer if tokenizer is None else tokenizer
        check_vocabulary(self.model, tokenizer)
        if max_length is not None:
            check_length(self.model, max_length)
        longest = max_length or min(tokenizer.model_max_length, longest_input(self.model))
        outputs = predict_outputs(self, texts, tokenizer, longest, tokens_per_batch)
        return named_predictions(outputs, self.label_names, self.problem_type)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return the labels' probabilities: of one of them, or of each where a text has several."""
        logits = logits / self.temperature if self.calibrated_predictions else logits
        return logits.sigmoid() if self.problem_type == "multi_label_classification" else logits.softmax(dim=-1)

    def export(
        self,
        folder: str | Path,
        tokenizer: PreTrainedTokenizerBase | None = None,
        *,
        weights: Mapping[str, Tensor] | None = None,
        facts: Mapping[str, Any] | None = None,
        onnx: bool = False,
    ) -> Path:
        """Write a folder for transformers: see :func:`~lightning_modules.trained_model.export.export_model`.

        Args:
            folder: Where to write; must not exist yet, or be empty.
            tokenizer: What the model was trained with. Default: the one of the model's folder or name.
            weights: State of the module in place of its own: a checkpoint's ``state_dict``.
            facts: What the model card states.
            onnx: Whether to write ``model.onnx`` as well; needs the extra ``onnx``.
        """
        tokenizer = self.own_tokenizer if tokenizer is None else tokenizer
        return export_model(self, folder, tokenizer, weights=weights, facts=facts, onnx=onnx)

    def to_onnx(  # type: ignore[override]
        self,
        file_path: str | Path,
        input_sample: None = None,
        *,
        tokenizer: PreTrainedTokenizerBase | None = None,
        **options: Any,
    ) -> Path:
        """Write an ONNX file; see :func:`~lightning_modules.trained_model.export.export_onnx`.

        Lightning's own hands the whole module to torch, which cannot export it.

        Args:
            file_path: Where to write.
            input_sample: Nothing; the inputs are the tokenizer's, of any batch and length.
            tokenizer: What the model was trained with. Default: the one of the model's folder or name.
            options: None; those of torch.onnx.export are chosen by the exporter.

        Raises:
            ModelError: if something else is given, the extra ``onnx`` is not installed, or torch cannot export it.
        """
        given = [*(["input_sample"] if input_sample is not None else []), *options]
        if given or not isinstance(file_path, str | Path):
            raise ModelError(
                f"to_onnx: {', '.join(given) or type(file_path).__name__} is not taken; give a path, and the tokenizer "
                "where the model's folder has none"
            )
        return export_onnx(self, file_path, self.own_tokenizer if tokenizer is None else tokenizer)

    def save_adapter(self, folder: str | Path, weights: Mapping[str, Tensor] | None = None) -> Path:
        """Write the adapter and the head alone: see :func:`~lightning_modules.trained_model.export.export_adapter`.

        Args:
            folder: Where to write; must not exist yet, or be empty. ``adapter=folder`` reads it back.
            weights: State of the module in place of its own: a checkpoint's ``state_dict``.
        """
        return export_adapter(self, folder, weights)

    @property
    def target_mean(self) -> float:
        """Mean of the regression targets of the training split; 0 where they are used as they are."""
        return self.task_loss.target_mean

    @property
    def target_std(self) -> float:
        """Standard deviation of the regression targets of the training split; 1 where they are used as they are."""
        return self.task_loss.target_std

    @property
    def can_be_exported(self) -> bool:
        """Whether transformers alone can express the model, which it cannot with bottleneck adapters."""
        return self.adapted is None or self.adapted.can_merge

    @cached_property
    def own_tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer of the model's folder or name, loaded at first access."""
        return load_model_tokenizer(self.hparams["model"], self.trust_remote_code)
