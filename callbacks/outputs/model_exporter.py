"""The best checkpoint of a run as a folder that transformers loads alone."""

from __future__ import annotations

import os
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lightning.fabric.utilities.data import sized_len
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from callbacks.checkpoints.checkpoint_reading import FACTS, read_checkpoint
from callbacks.files.file_systems import exists, is_remote, upload
from callbacks.files.new_file import free_name
from callbacks.files.run_folder import run_folder, shown_path
from callbacks.interpolation.pretrained_interpolation import PretrainedInterpolation
from callbacks.outputs.training_facts import described_data, facts_of, input_facts, step_sizes
from callbacks.reports.hyperparameter_logger import hyperparameters
from callbacks.trainer.trainer_callbacks import callbacks_of
from optimizers import traits


class ModelExporter(Callback):
    """Writes the best checkpoint of a finished ``fit`` as a folder that ``transformers`` loads without linetune.

    ``<folder>/model`` holds weights, configuration, tokenizer and a model card, the weights of an adapter merged in;
    ``<folder>/adapter`` the adapter and the head alone, which peft and the module's argument ``adapter`` read. A
    bottleneck adapter, which transformers cannot express, has the second folder alone. Where no checkpoint was kept,
    the weights at the end of the run are written, and the card says so. Rank 0 writes; a folder appears whole or not
    at all, and none is replaced: a second one is ``model-v1``. A run with ``fast_dev_run`` writes nothing, and one
    whose parameters are sharded says how to export its checkpoint.

    The tokenizer is the datamodule's (``trainer.datamodule.tokenizer``), or else the one of the model's name; without
    either, a fit is refused at its start. Every checkpoint also gets what the card states, so that
    ``python cli.py export`` can write the folder later.

    Args:
        folder: Where to write. Default: the run's folder (:func:`~callbacks.run_folder`).
        onnx: Whether to write ``model/model.onnx`` as well; needs the extra ``onnx``.

    Raises:
        MisconfigurationException: There is no tokenizer.

    Example::

        Trainer(callbacks=[ModelExporter()])
    """

    def __init__(self, folder: str | None = None, onnx: bool = False) -> None:
        self.folder = folder
        self.onnx = onnx
        self._step_sizes: dict[str, dict[str, float]] = {}  # per unit, the largest and the last
        self._metrics: dict[str, float] = {}
        self._measured_at: int | None = None  # the step of the last validation

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":  # of an earlier fit nothing is kept; a checkpoint's step sizes are loaded after this
            self._step_sizes, self._metrics, self._measured_at = {}, {}, None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not hasattr(pl_module, "export"):
            rank_zero_warn(f"ModelExporter: {type(pl_module).__name__} has no method export; nothing will be written")
        elif not trainer.fast_dev_run:  # type: ignore[attr-defined]
            _check_tokenizer(trainer, pl_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        for name, size in (pair for optimizer in trainer.optimizers for pair in step_sizes(optimizer).items()):
            largest = max(size, self._step_sizes.get(name, {}).get("largest", size))
            self._step_sizes[name] = {"largest": largest, "last": size}

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._measured_at = trainer.global_step
            self._metrics = {
                name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val")
            }

    def state_dict(self) -> dict[str, Any]:
        return {"step_sizes": self._step_sizes}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._step_sizes = state_dict["step_sizes"]

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint[FACTS] = self._facts(trainer, pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        folder = run_folder(trainer) if self.folder is None else self.folder
        is_written = trainer.is_global_zero and hasattr(pl_module, "export")
        if not is_written or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        best = best_checkpoint(trainer)
        if best is not None and os.path.isdir(best):
            # A sharded model cannot be copied, and its parts may be more than one rank holds.
            rank_zero_warn(
                f"ModelExporter: {best} is sharded, nothing is exported; on one device linetune export --ckpt_path "
                f"{best} --to FOLDER does so"
            )
            return
        if best is None:
            weights, facts = pl_module.state_dict(), self._facts_of_the_end(trainer, pl_module)
        else:
            checkpoint = read_checkpoint(best, mmap=True)
            weights, facts = checkpoint["state_dict"], facts_of(checkpoint)
        datamodule = trainer.datamodule  # type: ignore[attr-defined]
        with TemporaryDirectory() if is_remote(folder) else nullcontext(folder) as local:
            for path in write_folders(pl_module, datamodule, Path(local), weights, facts, self.onnx):
                place = str(path)
                if is_remote(folder):
                    place = free_name(os.path.join(folder, path.name))
                    upload(path, place)
                print(f"exported          {shown_path(place)} ({facts['checkpoint']})")

    def _facts_of_the_end(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Return what is known of the weights at the end of a run without a checkpoint."""
        facts = self._facts(trainer, pl_module)
        facts["checkpoint"] = f"those of the last step, {trainer.global_step}; no checkpoint was kept"
        for callback in callbacks_of(trainer, PretrainedInterpolation):
            if callback.kept:
                facts["interpolation"] = callback.found
                facts["metrics"] = {f"val/{name}": value for name, value in callback.scores.items()}
        temperature = getattr(pl_module, "temperature", 1.0)
        return facts if temperature == 1.0 else facts | {"temperature": temperature}

    def _facts(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        values = hyperparameters(trainer, pl_module)
        own = {name.removeprefix("optimizer/"): value for name, value in values.items() if "optimizer/" in name}
        datamodule = getattr(trainer, "datamodule", None)
        rows = sized_len(getattr(trainer.train_dataloader, "dataset", None))  # a stream has none
        return {
            "data": described_data(datamodule) | ({} if rows is None else {"training rows": rows}),
            # Those of an earlier validation are not of these weights.
            "metrics": dict(self._metrics) if self._measured_at == trainer.global_step else {},
            "optimizer": {"class": values.get("Optimizer", "none")} | own,
            "step_sizes": {name: dict(sizes) for name, sizes in self._step_sizes.items()},
            "searched": any(traits(optimizer).sets_step_size for optimizer in trainer.optimizers),
            **input_facts(datamodule),
        }


def _check_tokenizer(trainer: Trainer, module: Any) -> None:
    """Refuse at the start of a fit what would end it with an error."""
    datamodule = trainer.datamodule  # type: ignore[attr-defined]
    if not module.can_be_exported or getattr(datamodule, "tokenizer", None) is not None:
        return
    try:
        getattr(module, "own_tokenizer", None)  # loads it
    except ValueError as error:
        raise MisconfigurationException(
            f"ModelExporter: {error}, as an attribute of the datamodule, or leave the callback out"
        ) from error


def write_folders(
    module: Any, datamodule: Any, folder: Path, weights: dict[str, Any], facts: dict[str, Any], onnx: bool = False
) -> list[Path]:
    """Write a module's ``model`` and ``adapter`` folders, as far as it has them, and return them."""
    written = []
    if module.can_be_exported:
        tokenizer = getattr(datamodule, "tokenizer", None)
        at = free_name(str(folder / "model"))
        written.append(module.export(at, tokenizer, weights=weights, facts=facts, onnx=onnx))
    if module.adapted is not None:
        written.append(module.save_adapter(free_name(str(folder / "adapter")), weights=weights))
    return written


def best_checkpoint(trainer: Trainer) -> str | None:
    """Return the path of the best checkpoint of a run, if it kept one."""
    callback = trainer.checkpoint_callback
    path = callback.best_model_path if isinstance(callback, ModelCheckpoint) else ""
    return path if exists(path) else None
