"""A Hugging Face sequence classifier that any optimizer trains, those that re-run the batch included."""

import inspect
import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal, cast

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import ParallelStrategy
from torch import Tensor
from torch.nn import ModuleList
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from lightning_modules.adapters import AdaptedModel, AdapterConfig, add_adapter
from lightning_modules.closures import Batch, StepClosures, count_examples
from lightning_modules.combinations import check_combination
from lightning_modules.errors import ModelError
from lightning_modules.feature_cache import FeatureCache
from lightning_modules.frozen_outputs import FrozenOutputs
from lightning_modules.length_split import split_by_length
from lightning_modules.metrics import EvaluationMetrics
from lightning_modules.pretrained import load_sequence_classifier
from lightning_modules.run_length import unset_keywords
from lightning_modules.trainable_parts import freeze_all_but, frozen_modules
from optimizers import ParabolicAdam, ParamGroups, scale_learning_rates

ScheduleCallable = Callable[[Optimizer], LRScheduler | ReduceLROnPlateau]


class SequenceClassifier(LightningModule):
    """Fine-tunes a sequence classification or regression model.

    Optimization is manual in Lightning's sense, so that an optimizer can re-run the batch: an optimizer whose ``step``
    takes ``evaluate`` gets ``step(closure, evaluate=…, loss=…)``, any other one gets ``step(closure)``. Batches are
    dicts with ``input_ids``, ``attention_mask``, perhaps ``token_type_ids``, ``labels`` and ``idx``. Within a step, the
    output of a frozen encoder is computed once.

    Logs ``train/loss``, ``train/step_size``, ``train/step_time`` (seconds spent in a step),
    ``train/examples_per_second``, and per evaluation set ``val/loss``, ``val/<metric>``, ``test/…``; a second set's
    name is appended to the stage (``val_mismatched/accuracy``).

    Args:
        model: A hub name, a folder, a ``config.json``, or ``offline:all-MiniLM-L6-v2`` for packaged weights.
        num_labels: Number of labels; 1 means regression. The command line takes it from the data.
        metrics: Any of accuracy, f1, matthews (classification), pearson, spearman (regression). Default: accuracy, or
            pearson and spearman. The command line takes them from the data.
        eval_set_names: Names of the evaluation sets where there are several. The command line takes them from the data.
        pretrained: Whether to load weights; ``False`` draws them at random from the configuration.
        trust_remote_code: Whether a hub repository may run code of its own.
        adapter: Trains an adapter and the head in place of the whole model: a configuration of peft
            (``peft.LoraConfig``, ``peft.IA3Config``, …) or ``lightning_modules.BottleneckConfig``, or the folder of a
            saved adapter. Default: none.
        optimizer: Makes the optimizer from parameter groups. An argument ``steps_per_epoch`` or ``total_steps`` that is
            null is filled in with the run's own.
        lr_scheduler: Makes a learning-rate schedule from the optimizer. An argument ``total_steps``,
            ``num_training_steps``, ``T_max`` or ``total_iters`` that is null is filled in with the run's number of
            optimizer steps, or of epochs if the schedule advances per epoch; where it has no default
            (CosineAnnealingLR's ``T_max``) only from Python, by leaving it out. Not for optimizers that search for
            their step size.
        lr_scheduler_interval: Whether the schedule advances per optimizer ``step`` or per ``epoch``. ReduceLROnPlateau
            always advances per epoch; unless it watches a ``train/`` metric, in those epochs alone that validate.
        lr_scheduler_monitor: What ReduceLROnPlateau watches: the name of a logged metric.
        param_groups: Divides the model into the optimizer's parameter groups. Default: the whole model as one unit, its
            biases and norms without weight decay.
        accumulate_grad_batches: Batches per optimizer step. A step, and every trial of a line search in it, is about
            all of them.
        gradient_clip_val: Bound on the gradient, applied before the optimizer sees it; not for line searches, which
            need the slope of the loss as it is. Default: none.
        gradient_clip_algorithm: Clip the gradients' joint ``norm`` or each ``value``.
        trainable: What trains: ``all``; the ``head``, which is all above the layers; or the ``new`` parameters, which
            the checkpoint did not hold. What is frozen runs in eval mode.
        cache_features: Whether to keep what a frozen encoder hands to the head on disk, so that it runs once per
            example of the training and validation splits and never again.
        feature_cache_dir: Folder for these files. Default: ``linetune/features`` beside what comes from the hub.
        dropout: Probability in place of all dropout probabilities of the model's configuration. Default: its own.
        split_by_length: In how many parts of similar length a batch of training or validation goes through the model.
            Loss and gradient are the whole batch's; what is saved is padding. Worth it where time is proportional to
            tokens and sentences differ in length: about half of the time of a step of 32 sentences of SST-2 on a CPU
            core, in 4 parts. Default: 1, the batch as it is.
        label_names: Names of the labels, in order, which saved models carry. Default: those of the checkpoint. The
            command line takes them from the data.

    Raises:
        ModelError: if a model cannot be loaded or an argument is out of range.

    Example::

        data = GLUEDataModule("sst2", source="synthetic")
        Trainer(max_epochs=1).fit(SequenceClassifier(num_labels=data.num_labels, metrics=data.metrics), data)
    """

    def __init__(
        self,
        model: str = "offline:all-MiniLM-L6-v2",
        num_labels: int = 2,
        metrics: Sequence[str] | None = None,
        eval_set_names: Sequence[str] = ("",),
        pretrained: bool = True,
        trust_remote_code: bool = False,
        adapter: AdapterConfig | str | None = None,
        optimizer: OptimizerCallable = ParabolicAdam,
        lr_scheduler: ScheduleCallable | None = None,
        lr_scheduler_interval: Literal["step", "epoch"] = "step",
        lr_scheduler_monitor: str = "val/loss",
        param_groups: ParamGroups | None = None,
        accumulate_grad_batches: int = 1,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: Literal["norm", "value"] = "norm",
        trainable: Literal["all", "head", "new"] = "all",
        cache_features: bool = False,
        feature_cache_dir: str | None = None,
        dropout: float | None = None,
        split_by_length: int = 1,
        label_names: Sequence[str] = (),
    ) -> None:
        super().__init__()
        if accumulate_grad_batches < 1:
            raise ModelError(f"accumulate_grad_batches: {accumulate_grad_batches} is not allowed; 1 or more")
        if gradient_clip_val is not None and gradient_clip_val <= 0:
            raise ModelError(
                f"gradient_clip_val: {gradient_clip_val} is not allowed; a positive number, or null for none"
            )
        if split_by_length < 1:
            raise ModelError(f"split_by_length: {split_by_length} is not allowed; 1 or more")
        kept = ("model", "num_labels", "label_names", "metrics", "eval_set_names", "pretrained")
        self.save_hyperparameters(*kept, logger=False)
        self.automatic_optimization = False
        loaded = load_sequence_classifier(
            model,
            num_labels,
            pretrained=pretrained,
            trust_remote_code=trust_remote_code,
            dropout=dropout,
            label_names=label_names,
        )
        self.pad_token_id = getattr(loaded.model.config, "pad_token_id", None)
        self.adapted = None if adapter is None else add_adapter(loaded.model, adapter, loaded.new_parameter_names)
        self.model: torch.nn.Module = (self.adapted or loaded).model
        self.new_parameter_names = (self.adapted or loaded).new_parameter_names
        try:
            freeze_all_but(self.model, trainable, self.new_parameter_names)
        except ValueError as error:
            raise ModelError(str(error)) from error
        self.trainable = trainable
        self.train()
        self.frozen_outputs = FrozenOutputs(self.model, self._logits)
        self.feature_cache = (
            FeatureCache(self.frozen_outputs, self.model, self._logits, feature_cache_dir) if cache_features else None
        )
        self.num_labels = num_labels
        self.eval_set_names = tuple(eval_set_names)
        self.val_metrics, self.test_metrics = (
            ModuleList(EvaluationMetrics(metrics, num_labels) for _ in self.eval_set_names) for _ in range(2)
        )
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.lr_scheduler_interval = lr_scheduler_interval
        self.lr_scheduler_monitor = lr_scheduler_monitor
        self.param_groups = param_groups
        self.accumulate_grad_batches = accumulate_grad_batches
        self.gradient_clip_val = gradient_clip_val
        self.gradient_clip_algorithm = gradient_clip_algorithm
        self.split_by_length = split_by_length
        self._pending_batches: list[Batch] = []
        self._validated = False  # in this epoch
        self._resumed: dict[str, Any] | None = None

    # Model and loss

    def train(self, mode: bool = True) -> "SequenceClassifier":
        super().train(mode)
        if mode and self.trainable != "all":
            for module in frozen_modules(self.model):
                module.eval()
        return self

    def forward(self, batch: Batch) -> Tensor:
        """``(batch, labels)`` logits, or ``(batch,)`` scores for regression, in float32."""
        with self.frozen_outputs.reused(batch):
            logits = self._logits(batch).float()
        return logits.squeeze(-1) if self.num_labels == 1 else logits

    def _logits(self, batch: Batch) -> Tensor:
        inputs = {key: value for key, value in batch.items() if key not in ("labels", "idx")}
        if self.pad_token_id is not None and "attention_mask" in inputs:
            # Decoders read their logits at the last token that is not the model's own padding token, whatever the mask
            # says; tokenizers may pad with another one.
            inputs["input_ids"] = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, self.pad_token_id)
        return self.model(**inputs).logits

    def _load_features(self, split: str, batch: Batch, loader: Any) -> None:
        if self.feature_cache is not None:
            fingerprint = getattr(getattr(loader, "dataset", None), "_fingerprint", "")
            self.feature_cache.load(split, batch, fingerprint)

    def loss_from_outputs(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy, or mean squared error for regression; float32 under any precision."""
        with torch.autocast(outputs.device.type, enabled=False):
            if self.num_labels == 1:
                return torch.nn.functional.mse_loss(outputs, labels.float())
            return torch.nn.functional.cross_entropy(outputs, labels)

    def compute_loss(self, batch: Batch) -> Tensor:
        """Mean loss of a batch."""
        return self.loss_from_outputs(self(batch), batch["labels"])

    # Training

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        self._pending_batches.append(batch)
        if len(self._pending_batches) < self.accumulate_grad_batches and not self.trainer.is_last_batch:
            return
        started = time.perf_counter()
        batches = [part for each in self._pending_batches for part in split_by_length(each, self.split_by_length)]
        self._pending_batches = []
        optimizer = self._single_optimizer()
        for each in batches:
            self.frozen_outputs.remember(each)
            self._load_features("train", each, self.trainer.train_dataloader)
        step = self.step_closures(batches, optimizer)
        offered = {"evaluate": step.evaluate, "loss": step.loss, "evaluate_many": step.evaluate_many}
        loss = optimizer.step(closure=step.closure, **taken_by_step(optimizer.optimizer, offered))
        if not getattr(optimizer.optimizer, "needs_gradient", True):
            # Nobody has run the closure, which fills it in.
            step.loss.copy_(torch.as_tensor(loss))
        self.frozen_outputs.forget()
        # Weights cached during the step must not meet the batch after it.
        torch.clear_autocast_cache()
        if not self._schedule_per_epoch():
            self._advance_schedule()
        self._log_step(step, time.perf_counter() - started)

    def step_closures(self, batches: list[Batch], optimizer: LightningOptimizer) -> StepClosures:
        """The closures of a step over these micro-batches, as the running strategy and precision need them."""
        strategy = self.trainer.strategy
        without_gradient_sync: Callable[[], AbstractContextManager[None]] = (
            strategy.block_backward_sync if isinstance(strategy, ParallelStrategy) else nullcontext
        )
        return StepClosures(
            self.compute_loss,
            batches,
            zero_grad=optimizer.zero_grad,
            backward=self.manual_backward,
            device=self.device,
            mean_over_ranks=lambda loss: strategy.reduce(loss, reduce_op="mean"),
            without_gradient_sync=without_gradient_sync,
            module=self,
        )

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        # Runs once per step, after the gradients are unscaled and reduced and before the optimizer reads them.
        if self.gradient_clip_val is not None:
            self.clip_gradients(optimizer, self.gradient_clip_val, self.gradient_clip_algorithm)

    def _single_optimizer(self) -> LightningOptimizer:
        optimizer = self.optimizers()
        assert isinstance(optimizer, LightningOptimizer)
        return optimizer

    def _log_step(self, step: StepClosures, seconds: float) -> None:
        self.log("train/loss", step.loss, prog_bar=True)
        self.log("train/step_size", float(self._single_optimizer().param_groups[0]["lr"]), prog_bar=True)
        self.log("train/step_time", seconds)
        self.log("train/examples_per_second", step.num_examples * self.trainer.world_size / seconds)

    def configure_optimizers(self) -> Any:
        length = self._run_length()
        division = self.param_groups or ParamGroups()
        try:
            groups = division(self.model, self.new_parameter_names)
        except ValueError as error:
            raise ModelError(f"param_groups: {error}") from error
        try:
            optimizer = self.optimizer(groups, **unset_keywords(self.optimizer, length))
        except (TypeError, ValueError) as error:
            raise ModelError(f"optimizer: {error}") from error
        check_combination(
            optimizer,
            division,
            has_schedule=self.lr_scheduler is not None,
            scales_gradients=getattr(self.trainer.precision_plugin, "scaler", None) is not None,
            clips_gradients=self.gradient_clip_val is not None,
        )
        self._check_resumed(optimizer)
        scale_learning_rates(optimizer)
        if self.lr_scheduler is None:
            return {"optimizer": optimizer}
        advances = self._run_epochs(**length) if self.lr_scheduler_interval == "epoch" else length["total_steps"]
        lengths = dict.fromkeys(("total_steps", "num_training_steps", "T_max", "total_iters"), advances)
        unset = unset_keywords(self.lr_scheduler, length | lengths)
        # Schedules with total_steps may do without, and refuse None themselves; the other names need a number.
        unknown = [name for name, value in unset.items() if value is None and name in lengths and name != "total_steps"]
        if unknown:
            raise ModelError(
                f"lr_scheduler: {unknown[0]} is the run's number of {self.lr_scheduler_interval}s, which nobody knows "
                "here; give it, or give the trainer max_epochs or max_steps"
            )
        try:
            schedule = self.lr_scheduler(optimizer, **unset)
        except (TypeError, ValueError) as error:
            raise ModelError(f"lr_scheduler: {error}") from error
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": self.lr_scheduler_interval}}

    def _run_length(self) -> dict[str, int | None]:
        """Optimizer steps of an epoch and of the run, 1 at least; ``None`` where a run has no foreseeable end."""
        trainer = self.trainer
        trainer.fit_loop.setup_data()  # the Trainer has not counted its batches yet
        batches = trainer.num_training_batches
        steps_per_epoch = None if math.isinf(batches) else max(1, math.ceil(batches / self.accumulate_grad_batches))
        limits = [trainer.max_steps] if trainer.max_steps != -1 else []
        if steps_per_epoch is not None and trainer.max_epochs not in (None, -1):
            limits.append(steps_per_epoch * trainer.max_epochs)
        # A run of no steps (max_epochs: 0) is prepared like any other.
        return {"steps_per_epoch": steps_per_epoch, "total_steps": max(1, min(limits)) if limits else None}

    def _run_epochs(self, steps_per_epoch: int | None, total_steps: int | None) -> int | None:
        """Epochs of the run, the last one perhaps not whole; ``None`` where nobody knows."""
        if steps_per_epoch is not None and total_steps is not None:
            return math.ceil(total_steps / steps_per_epoch)
        return None if self.trainer.max_epochs == -1 else self.trainer.max_epochs

    # Schedules: manual optimization leaves them to the module.

    def _schedule_per_epoch(self) -> bool:
        return self.lr_scheduler_interval == "epoch" or isinstance(self.lr_schedulers(), ReduceLROnPlateau)

    def _advance_schedule(self) -> None:
        schedule = self.lr_schedulers()
        if isinstance(schedule, LRScheduler) and not isinstance(schedule, ReduceLROnPlateau):
            schedule.step()
        if not isinstance(schedule, ReduceLROnPlateau):
            return
        measured = self._validated or self.lr_scheduler_monitor.startswith("train/")
        if self.trainer.enable_validation and not measured:
            return  # an epoch without a validation has no value, or that of an earlier one
        monitored = self.trainer.callback_metrics.get(self.lr_scheduler_monitor)
        if monitored is None:
            logged = ", ".join(sorted(self.trainer.callback_metrics))
            raise ModelError(f"lr_scheduler_monitor: {self.lr_scheduler_monitor!r} is not logged; logged: {logged}")
        schedule.step(monitored)

    # Schedule-free optimizers keep two sets of weights and are told which one is wanted.

    def on_train_start(self) -> None:
        self._pending_batches, self._validated = [], False  # of a run that was interrupted
        # A run that is resumed within an epoch has no start of one, and its checkpoint is of a validation's mode.
        self._set_optimizer_mode("train")

    def on_train_epoch_start(self) -> None:
        self._set_optimizer_mode("train")

    def on_train_epoch_end(self) -> None:
        if self._schedule_per_epoch():
            self._advance_schedule()
        self._validated = False
        self._set_optimizer_mode("eval")

    def on_validation_start(self) -> None:
        self._reset(self.val_metrics)
        self._set_optimizer_mode("eval")

    def on_validation_end(self) -> None:
        if self.trainer.state.fn == "fit":
            self._validated = not self.trainer.sanity_checking
            self._set_optimizer_mode("train")

    def _set_optimizer_mode(self, mode: Literal["train", "eval"]) -> None:
        for optimizer in self.trainer.optimizers:
            if callable(getattr(optimizer, mode, None)):
                getattr(optimizer, mode)()

    # Evaluation

    def on_test_start(self) -> None:
        self._reset(self.test_metrics)

    def _reset(self, metrics_per_set: ModuleList) -> None:
        # An evaluation that was interrupted left its sums behind, one in inference mode tensors that fit cannot use.
        for metrics in metrics_per_set:
            cast(EvaluationMetrics, metrics).reset()

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        self._evaluation_step("val", self.val_metrics, batch, dataloader_idx)

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        self._evaluation_step("test", self.test_metrics, batch, dataloader_idx)

    def _evaluation_step(self, stage: str, metrics_per_set: ModuleList, batch: Batch, set_index: int) -> None:
        if "labels" not in batch:
            raise ModelError(f"{stage}: the batches have no labels to score against; use predict for unlabelled data")
        if set_index >= len(self.eval_set_names):
            raise ModelError(
                f"eval_set_names: {len(self.eval_set_names)} names for more evaluation sets; give one name per set"
            )
        metrics = cast(EvaluationMetrics, metrics_per_set[set_index])
        for part in split_by_length(batch, self.split_by_length):
            if stage == "val":
                loaders = self.trainer.val_dataloaders
                loader = loaders[set_index] if isinstance(loaders, list) else loaders
                self._load_features(f"val{set_index}", part, loader)
            outputs = self(part)
            self.frozen_outputs.forget()
            metrics.update(self.loss_from_outputs(outputs, part["labels"]), outputs, part["labels"])
        prefix = stage if set_index == 0 else f"{stage}_{self.eval_set_names[set_index]}"
        for name, metric in metrics.named_metrics().items():
            self.log(
                f"{prefix}/{name}",
                metric,
                on_step=False,
                on_epoch=True,
                prog_bar=name != "loss" and set_index == 0,
                add_dataloader_idx=False,
                batch_size=count_examples(batch),
            )

    def predict_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        """``probabilities`` of shape ``(batch, labels)`` or ``scores`` of shape ``(batch,)``; ``idx`` if given."""
        outputs = self(batch)
        found = {"scores": outputs} if self.num_labels == 1 else {"probabilities": outputs.softmax(dim=-1)}
        return {"idx": batch["idx"], **found} if "idx" in batch else found

    # Adapters

    def save_adapter(self, folder: str | Path) -> None:
        """Writes the adapter and the head, not the frozen model: in peft's own format, or the same file layout.

        Args:
            folder: Where to write; made if it does not exist. ``adapter=folder`` reads it back.

        Raises:
            ModelError: if the module was made without an adapter.
        """
        self._require_adapter().save(folder)

    def merged_model(self) -> torch.nn.Module:
        """A copy of the Hugging Face model with the adapter worked into its weights, of the plain architecture.

        Raises:
            ModelError: if the module was made without an adapter or with one that cannot be merged.
        """
        return deepcopy(self._require_adapter()).merge()

    def _require_adapter(self) -> AdaptedModel:
        if self.adapted is None:
            raise ModelError("adapter: the module was made without one")
        return self.adapted

    # Checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["optimizer_names"] = [type(optimizer).__name__ for optimizer in self.trainer.optimizers]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        stored, expected = checkpoint["state_dict"], self.state_dict()
        for name in sorted(stored.keys() | expected.keys()):
            found = tuple(stored[name].shape) if name in stored else "absent"
            wanted = tuple(expected[name].shape) if name in expected else "absent"
            if found != wanted:
                raise ModelError(
                    f"ckpt_path: the checkpoint is of another architecture than {type(self.model).__name__} "
                    f"{self.hparams['model']!r}: {name} is {found} in the checkpoint and {wanted} in the model"
                )
        # Lightning gives the optimizer its state after it has made it.
        self._resumed = checkpoint if self._trainer is not None and self.trainer.state.fn == "fit" else None

    def _check_resumed(self, optimizer: Optimizer) -> None:
        """Refuses a state that torch would load into another optimizer, step sizes and all, or that does not fit."""
        checkpoint, self._resumed = self._resumed, None
        if checkpoint is None or not checkpoint.get("optimizer_states"):
            return
        (stored,), name = checkpoint.get("optimizer_names", [None]), type(optimizer).__name__
        if stored not in (None, name):
            raise ModelError(
                f"ckpt_path: the checkpoint's optimizer is {stored}, the run's is {name}; resume with {stored}"
            )
        groups = checkpoint["optimizer_states"][0]["param_groups"], optimizer.param_groups
        theirs, ours = ([len(group["params"]) for group in each] for each in groups)
        if theirs != ours:
            raise ModelError(
                f"ckpt_path: the checkpoint's optimizer has groups of {theirs} tensors, the run's of {ours}; resume "
                "with the checkpoint's param_groups, trainable and adapter"
            )


def taken_by_step(optimizer: Optimizer, offered: dict[str, Any]) -> dict[str, Any]:
    """Those of ``offered`` that an optimizer's ``step`` has arguments for: all for one that re-runs the batch."""
    taken = inspect.signature(type(optimizer).step).parameters
    return {name: value for name, value in offered.items() if name in taken}
