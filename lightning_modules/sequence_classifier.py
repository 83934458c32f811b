"""A Hugging Face sequence classifier or regressor: forward, loss, metrics and predictions."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from typing import Any, ClassVar, Self, cast

import torch
from lightning.pytorch import Callback
from torch import Tensor, nn
from torch.nn import ModuleList

from lightning_modules.batches.batch_check import check_batch, check_is_dict, embedded_tokens, labels_of
from lightning_modules.batches.batch_logits import BatchLogits
from lightning_modules.batches.batch_rows import Batch, count_examples
from lightning_modules.batches.input_limits import check_data
from lightning_modules.batches.length_split import longest_first
from lightning_modules.batches.length_split import split_by_length as parts_by_length
from lightning_modules.batches.windows import mean_per_text
from lightning_modules.checkpoints.checkpoint_check import check_entries, check_task
from lightning_modules.checkpoints.hyperparameter_check import check_kinds
from lightning_modules.closure_module import ClosureModule
from lightning_modules.errors import ModelError
from lightning_modules.features.feature_cache import FeatureCache, fingerprint_of
from lightning_modules.features.frozen_encoder import Features, FrozenEncoder
from lightning_modules.ignored_warnings import ignore_calls_between_libraries, ignore_frozen_in_eval_mode
from lightning_modules.losses import LossOptions, ProblemType, TaskLoss, check_problem_type, task_loss
from lightning_modules.metrics import EvaluationMetrics, check_metrics, mode_of, predicted_labels, reset_metrics
from lightning_modules.models.adapters import AdapterConfig, check_kind_of_adapter, kind_of_adapter
from lightning_modules.models.classifier_model import classifier_model
from lightning_modules.models.computed_buffers import computed_buffers, restore_rounded
from lightning_modules.models.head_bias import start_head_at
from lightning_modules.models.pretrained import check_label_order, load_sequence_classifier
from lightning_modules.models.sharded_model import sharded_modules
from lightning_modules.models.trainable_parts import Trainable, frozen_modules
from lightning_modules.steps.factories import value_of
from lightning_modules.trained_model.export import can_hold_mean
from lightning_modules.trained_model.start_weights import start_weights
from lightning_modules.trained_model.trained_classifier import TrainedClassifier
from lightning_modules.trainer.monitors import check_monitors
from lightning_modules.trainer.row_order import RowOrder
from lightning_modules.trainer.trainer_callbacks import without_present

ignore_calls_between_libraries()


class SequenceClassifier(ClosureModule, TrainedClassifier):
    """Fine-tunes a Hugging Face sequence classification or regression model.

    Batches are dicts with ``input_ids``, ``attention_mask``, perhaps ``token_type_ids``, ``labels`` and ``idx``; logits
    of the windows of a long text (key ``text``) are averaged. Regression targets are standardised for the loss; scores
    and metrics are in their units. Logs ``val/loss``, ``val/<metric>``, ``test/…`` besides what :class:`ClosureModule`
    logs; a second evaluation set's name is appended to the stage (``val_mismatched/accuracy``).

    Args:
        model: A hub name, a folder, a ``config.json``, or ``offline:all-MiniLM-L6-v2`` for packaged weights.
        num_labels: Number of labels; 1 means regression. The command line takes it from the data, as it does
            ``label_names``, ``metrics``, ``eval_set_names`` and ``problem_type``.
        label_names: Names of the labels, in order, which saved models carry. Default: those of the checkpoint.
        metrics: Names of :mod:`lightning_modules.metrics`, the main metric first. Default: accuracy; micro_f1 and
            macro_f1 (several labels per text); pearson and spearman (regression).
        eval_set_names: Names of the evaluation sets where there are several.
        problem_type: Kind of task, in transformers' words. Default: regression for 1 label, else one label per text.
        loss: Class weights and label smoothing. Default: neither.
        calibrated_predictions: Whether ``predict`` divides logits by the temperature of the callback Calibration.
        pretrained: Whether to load weights; ``False`` draws them at random from the configuration.
        trust_remote_code: Whether a hub repository may run code of its own.
        dropout: Probability in place of all dropout probabilities of the model's configuration. Default: its own.
        adapter: A configuration of peft or :class:`BottleneckConfig`, or the folder of a saved adapter: trains an
            adapter and the head in place of the whole model.
        trainable: Which parameters train: ``all``, the ``head`` (all above the layers), or the ``new`` ones, which the
            checkpoint did not hold. Frozen modules run in eval mode.
        cache_features: Whether to keep the output of a frozen encoder on disk, in a folder if one is named.
        skip_padding: Whether the layers leave padding out. Default: on a CPU where it is faster, see :class:`Packing`.
        split_by_length: In how many parts of similar length a batch goes through the model, to save padding.
        gradient_checkpointing: Whether to compute activations again in the backward pass in place of keeping them.
        compile: Whether to compile the model by torch.compile.
        training: The arguments of :class:`ClosureModule`: ``optimizer``, ``lr_scheduler``, ``param_groups``, ….

    Raises:
        ModelError: if a model cannot be loaded or an argument is out of range.

    Example::

        data = GLUEDataModule("sst2", source="synthetic")
        Trainer(max_epochs=1).fit(SequenceClassifier(num_labels=data.num_labels, metrics=data.metrics), data)
    """

    # Arguments of earlier versions, and what to write instead.
    renamed_arguments: ClassVar[dict[str, str]] = {
        "lr_scheduler_interval": "now model.lr_scheduler.interval",
        "lr_scheduler_monitor": "now model.lr_scheduler.monitor",
        "gradient_clip_val": "now model.gradient_clip.value",
        "gradient_clip_algorithm": "now model.gradient_clip.algorithm",
        "feature_cache_dir": "now model.cache_features, which takes the folder",
    }

    def __init__(
        self,
        model: str = "offline:all-MiniLM-L6-v2",
        num_labels: int = 2,
        label_names: Sequence[str] = (),
        metrics: Sequence[str] | None = None,
        eval_set_names: Sequence[str] = ("",),
        problem_type: ProblemType | None = None,
        loss: LossOptions | None = None,
        calibrated_predictions: bool = False,
        pretrained: bool = True,
        trust_remote_code: bool = False,
        dropout: float | None = None,
        adapter: AdapterConfig | str | None = None,
        trainable: Trainable = "all",
        cache_features: bool | str = False,
        skip_padding: bool | None = None,
        split_by_length: int = 1,
        gradient_checkpointing: bool = False,
        compile: bool = False,
        **training: Any,
    ) -> None:
        super().__init__(**training)
        model, label_names = _checked_name(model), [str(name) for name in label_names]
        self.problem_type: ProblemType = check_problem_type(problem_type, num_labels)
        self.num_labels = num_labels
        names = check_metrics(metrics, self.problem_type)
        # A checkpoint holds the options as plain values.
        self.loss_options = LossOptions(**loss) if isinstance(loss, Mapping) else loss or LossOptions()
        kept = ("model", "num_labels", "label_names", "metrics", "eval_set_names", "problem_type", "pretrained")
        self.save_hyperparameters(*kept, logger=False)
        self.hparams["loss"] = asdict(self.loss_options)
        loaded = load_sequence_classifier(
            model,
            num_labels,
            pretrained=pretrained,
            trust_remote_code=trust_remote_code,
            dropout=dropout,
            label_names=label_names,
            problem_type=self.problem_type,
        )
        own_names = cast("dict[int, str]", loaded.model.config.id2label or {})
        self.label_names = tuple(own_names.get(label, f"LABEL_{label}") for label in range(num_labels))
        self.loss_options.check_labels(self.problem_type, self.label_names)
        # setup("fit") or a checkpoint adds what the training data determines.
        self.task_loss: TaskLoss = task_loss(self.problem_type, self.loss_options, self.label_names)
        self.temperature = 1.0
        self.calibrated_predictions = calibrated_predictions
        pad_token_id = getattr(loaded.model.config, "pad_token_id", None)
        self.model, self.new_parameter_names, self.module_order, self.adapted = classifier_model(
            loaded,
            adapter=adapter,
            trainable=trainable,
            gradient_checkpointing=gradient_checkpointing,
            compile=compile,
        )
        self.trainable = trainable
        self.trust_remote_code = trust_remote_code
        self.train()
        self._vocabulary = embedded_tokens(self.model)
        self._logits = BatchLogits(self, pad_token_id)
        self.padding = self._logits.padding
        self._choose_passes(split_by_length, cache_features, skip_padding, compile or gradient_checkpointing)
        main = names[0] if names else "loss"
        self.main_metric, self.main_metric_mode = f"val/{main}", mode_of(main)
        self.eval_set_names = tuple(eval_set_names)
        self.val_metrics, self.test_metrics = (
            ModuleList(EvaluationMetrics(names, num_labels, self.problem_type) for _ in self.eval_set_names)
            for _ in range(2)
        )

    def _choose_passes(
        self, split_by_length: int, cache_features: bool | str, skip_padding: bool | None, runs_otherwise: bool
    ) -> None:
        """Decide in which parts, from which features and with how much padding batches go through the model.

        Args:
            split_by_length: The module's argument, as the next two.
            cache_features: Whether, or where, features are kept.
            skip_padding: Whether the layers leave padding out.
            runs_otherwise: Whether layers run compiled, or again in the backward pass, where they would see padding.
        """
        if split_by_length < 1:
            raise ModelError(f"split_by_length: {split_by_length} is not allowed; 1 or more")
        self.split_by_length = split_by_length
        self.frozen_encoder = FrozenEncoder(self.model, self._logits)
        self.feature_cache: FeatureCache | None = None
        if cache_features:
            folder = cache_features if isinstance(cache_features, str) else None
            self.feature_cache = FeatureCache(self.frozen_encoder, self.model, self._logits, folder)
        cannot_skip = runs_otherwise or self.feature_cache is not None  # features on disk are by row
        if skip_padding and cannot_skip:
            raise ModelError(
                "skip_padding: it does not go with compile, gradient_checkpointing or cache_features; leave one of "
                "them out"
            )
        if skip_padding is not False and not cannot_skip:
            self._logits.skip_padding(self.module_order, always=bool(skip_padding))
        by_row = {"split_by_length": split_by_length > 1, "cache_features": bool(cache_features)}
        self._options_by_row = [option for option, is_on in by_row.items() if is_on]
        for option in self._options_by_row:
            self.padding.refuse_where_it_matters(option)

    @property
    def trained_module(self) -> nn.Module:
        """The Hugging Face model, perhaps with an adapter."""
        return self.model

    @property
    def constant_buffers(self) -> bool:
        """Whether the model has no running statistics; other buffers of transformers' models are constants."""
        return not any(getattr(module, "track_running_stats", False) for module in self.model.modules())

    @property
    def restores_row_order(self) -> bool:
        """Whether predictions come in the rows' order even if a datamodule batches rows by length, which asks this."""
        return type(self).predict_step is SequenceClassifier.predict_step

    def configure_callbacks(self) -> Sequence[Callback]:
        if self.trainer.state.fn == "fit" and type(self) is SequenceClassifier:  # a subclass may log other names
            modes = {
                f"{self._prefix('val', place)}/{name}": mode_of(name)
                for place, metrics in enumerate(self.val_metrics)
                for name in cast(EvaluationMetrics, metrics).named_metrics()
            }
            schedule = self.lr_scheduler
            watched = None if schedule is None else (schedule.monitor, value_of(schedule.scheduler, "mode"))
            check_monitors(self.trainer, modes, watched)
        return [*super().configure_callbacks(), *without_present([RowOrder()], self.trainer)]

    def train(self, mode: bool = True) -> SequenceClassifier:
        super().train(mode)
        if mode and self.trainable != "all":
            for module in frozen_modules(self.model):
                module.eval()
        return self

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move or convert the module as torch does, except that positions stay as exact as they were computed."""
        exact = computed_buffers(self.model)
        super().to(*args, **kwargs)
        restore_rounded(self.model, exact)
        return self

    def half(self) -> Self:
        return self.to(torch.float16)  # torch's own does not call `to`

    def bfloat16(self) -> Self:
        return self.to(torch.bfloat16)

    def configure_model(self) -> None:
        super().configure_model()
        if self._options_by_row and sharded_modules(self):
            raise ModelError(
                f"{self._options_by_row[0]}: it does not go with sharded parameters, which all ranks gather for every "
                "forward pass; leave it out"
            )

    def setup(self, stage: str) -> None:
        super().setup(stage)
        data = getattr(self.trainer, "datamodule", None)
        check_data(self.model, data)
        self.padding.decide_side(data)
        if stage == "fit":
            if self.trainable != "all":
                ignore_frozen_in_eval_mode(self.model)
            if self.adapted is not None:
                self.adapted.check_trains()
            self.temperature = 1.0
            statistics = getattr(data, "label_statistics", None)
            if statistics is not None:
                fitted = task_loss(self.problem_type, self.loss_options, self.label_names, statistics)
                # An exported model adds the mean in the bias of its last layer.
                self.task_loss = fitted if can_hold_mean(self.model) else fitted.without_mean()
                if self.problem_type == "multi_label_classification":
                    start_head_at(self.model, fitted.best_constant(statistics), self.new_parameter_names)
            elif self.loss_options.class_weights == "balanced" and self.task_loss.class_weights is None:
                raise ModelError(
                    "loss: class_weights: balanced needs a datamodule that counts its labels (label_statistics), such "
                    "as TextDataModule; give a weight by label instead"
                )

    # Forward and loss

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        is_scored = self._trainer is None or not self.trainer.predicting
        check_batch(batch, self._vocabulary, self.num_labels, self.problem_type if is_scored else None)
        return batch

    def prepare_batch(self, batch: Batch, split: str) -> list[Batch]:
        check_is_dict(batch)
        batch = self.padding.on_free_side(batch)
        if "text" in batch and self._options_by_row:
            name = self._options_by_row[0]
            raise ModelError(f"{name}: it does not go with long texts as windows; leave it out, or truncate long texts")
        parts = parts_by_length(batch, self.split_by_length)
        return [part | {"features": self._features(part, split)} for part in parts]

    def forward(self, batch: Batch) -> Tensor:
        """Return ``(texts, labels)`` logits, or ``(texts,)`` scores in the targets' units, in float32."""
        check_is_dict(batch)
        return self.task_loss.in_user_units(self._outputs(self.padding.on_free_side(batch)))

    def _outputs(self, batch: Batch) -> Tensor:
        """Return logits, or standardised scores, per text."""
        features = batch.get("features")
        with nullcontext() if features is None else features.reused():
            logits = self._logits(batch).float()
        if "text" in batch:
            logits = mean_per_text(logits, batch)
        return logits.squeeze(-1) if self.num_labels == 1 else logits

    def _features(self, batch: Batch, split: str) -> Features | None:
        """The features of a batch: from the cache where there is one; else, in training, for the trials of its step."""
        if split == "train" and self.feature_cache is None:
            return self.frozen_encoder.features(batch)
        if self.feature_cache is None or split.startswith("test"):
            return None
        return self.feature_cache.features(split, batch, fingerprint_of(self.trainer, split))

    def loss_from_outputs(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return the mean loss of logits, or of standardised scores; float32 under any precision."""
        return self.task_loss(outputs, labels)

    def compute_loss(self, batch: Batch) -> Tensor:
        """Return the mean loss of a batch."""
        return self.loss_from_outputs(self._outputs(batch), labels_of(batch))

    def mean_over(self, batch: Batch) -> int | Tensor:
        """Return the sum of the weights of a batch's texts, or their number."""
        return self.task_loss.total_weight(labels_of(batch))

    @property
    def always_has_terms(self) -> bool:
        return type(self).mean_over is SequenceClassifier.mean_over  # weights of classes are above 0

    # Evaluation

    def on_validation_start(self) -> None:
        reset_metrics(self.val_metrics)
        super().on_validation_start()

    def on_test_start(self) -> None:
        reset_metrics(self.test_metrics)
        super().on_test_start()

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        """Return ``outputs`` (logits, or scores in the targets' units), ``predicted`` and ``labels``, for callbacks.

        They are in the order of the batch's rows.
        """
        return self._evaluation_step("val", self.val_metrics, batch, dataloader_idx)

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        """Return what :meth:`validation_step` does."""
        return self._evaluation_step("test", self.test_metrics, batch, dataloader_idx)

    def _evaluation_step(
        self, stage: str, metrics_per_set: ModuleList, batch: Batch, set_index: int
    ) -> dict[str, Tensor]:
        if set_index >= len(self.eval_set_names):
            raise ModelError(
                f"eval_set_names: {len(self.eval_set_names)} names for more evaluation sets; give one name per set"
            )
        metrics = cast(EvaluationMetrics, metrics_per_set[set_index])
        found: list[tuple[Tensor, Tensor]] = []
        for part in self.prepare_batch(batch, f"{stage}{set_index}"):
            outputs, labels = self._outputs(part), labels_of(part)
            loss = self.loss_from_outputs(outputs, labels)
            found.append((self.task_loss.in_user_units(outputs), labels))
            metrics.update(loss, *found[-1], self.mean_over(part))
        for name, metric in metrics.named_metrics().items():
            self.log(
                f"{self._prefix(stage, set_index)}/{name}",
                metric,
                on_step=False,
                on_epoch=True,
                prog_bar=name != "loss" and set_index == 0,
                add_dataloader_idx=False,
                batch_size=count_examples(batch),
            )
        outputs, labels = (torch.cat(parts) for parts in zip(*found, strict=True))
        if len(found) > 1 and type(self).prepare_batch is SequenceClassifier.prepare_batch:
            rows = longest_first(batch["attention_mask"]).argsort()
            outputs, labels = outputs[rows], labels[rows]
        return {"outputs": outputs, "predicted": predicted_labels(outputs, self.problem_type), "labels": labels}

    def _prefix(self, stage: str, set_index: int) -> str:
        return stage if set_index == 0 else f"{stage}_{self.eval_set_names[set_index]}"

    def score_rows(self, outputs: Tensor, labels: Tensor) -> dict[str, float]:
        """Return the loss and the metrics of rows, by name, as an evaluation of them alone would log them.

        Args:
            outputs: What :meth:`validation_step` returns of them.
            labels: Their labels.
        """
        metrics = EvaluationMetrics(self.hparams["metrics"], self.num_labels, self.problem_type).to(outputs.device)
        own = self.task_loss.standardised(outputs) if self.problem_type == "regression" else outputs
        metrics.update(self.loss_from_outputs(own, labels), outputs, labels)
        for metric in metrics.named_metrics().values():
            metric.sync_on_compute = False  # every rank has all rows
        return {name: float(metric.compute()) for name, metric in metrics.named_metrics().items()}

    def start_weights(self) -> dict[str, Tensor]:
        """Return the pretrained weights by their names in ``state_dict``, without new ones; empty if all are new."""
        return start_weights(self)

    def predict_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        """Return ``probabilities`` ``(texts, labels)`` or ``scores`` ``(texts,)``, and ``idx`` if the batch has it."""
        outputs = self(batch)
        if self.problem_type == "regression":
            found = {"scores": outputs}
        else:
            found = {"probabilities": self.probabilities(outputs)}
        return {"idx": batch["idx"], **found} if "idx" in batch else found

    # Checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["adapter"] = kind_of_adapter(self.adapted)
        if self.adapted is not None and self.adapted.start:
            checkpoint["adapter_start"] = self.adapted.start
        task = {"problem_type": self.problem_type, "temperature": self.temperature}
        checkpoint["task"] = task | self.task_loss.facts()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        check_entries(checkpoint)
        if self._trainer is not None:  # load_from_checkpoint has made this one with what replaces them
            check_kinds(checkpoint.get("hyper_parameters", {}), type(self))
        check_kind_of_adapter(checkpoint, self.adapted)
        names = checkpoint.get("hyper_parameters", {}).get("label_names") or ()
        check_label_order("ckpt_path: the checkpoint", names, self.hparams["label_names"] or ())
        is_fit = self._trainer is not None and self.trainer.state.fn == "fit"
        check_task(checkpoint, self.num_labels, self.hparams["label_names"] or (), self.problem_type, is_fit)
        super().on_load_checkpoint(checkpoint)
        if self.adapted is not None and "adapter_start" in checkpoint:
            self.adapted.start = checkpoint["adapter_start"]
        task = checkpoint.get("task")
        if task is None:  # of an earlier version
            return
        self.temperature = task["temperature"]
        self.task_loss = self.task_loss.with_facts(task, self.loss_options)


def _checked_name(model: Any) -> str:
    """Return a model's name or path, in place of which a model that was loaded is sometimes given."""
    if not isinstance(model, str | os.PathLike):
        raise ModelError(
            f"model: a {type(model).__name__} is given; its name on the hub is needed, or the folder that its "
            "save_pretrained wrote"
        )
    return os.fspath(model)
