"""The best checkpoint of a run as a folder that transformers loads alone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.optim import Optimizer

from callbacks.checkpoint_reading import FACTS, read_checkpoint
from callbacks.hyperparameter_logger import hyperparameters
from callbacks.interpolated_checkpoint import INTERPOLATION
from callbacks.pretrained_interpolation import PretrainedInterpolation
from callbacks.run_folder import run_folder
from optimizers import traits


class ModelExporter(Callback):
    """Writes the best checkpoint of a finished ``fit`` as a folder that ``transformers`` loads without linetune.

    ``<folder>/model`` holds weights, configuration, tokenizer and a model card, the weights of an adapter merged in;
    ``<folder>/adapter`` the adapter and the head alone, which peft and the module's argument ``adapter`` read. A
    bottleneck adapter, which transformers cannot express, has the second folder alone. Where no checkpoint was kept,
    the weights at the end of the run are written, and the card says so. Rank 0 writes; a folder appears whole or not
    at all, and none is replaced: a second one is ``model-v1``. A run with ``fast_dev_run`` writes nothing.

    The tokenizer is the datamodule's (``trainer.datamodule.tokenizer``), or else the one of the model's name.
    Every checkpoint also gets what the card states, so that ``python cli.py export`` can write the folder later.

    Args:
        folder: Where to write. Default: the run's folder (:func:`~callbacks.run_folder`).
        onnx: Whether to write ``model/model.onnx`` as well; needs the extra ``onnx``.

    Example::

        Trainer(callbacks=[ModelExporter()])
    """

    def __init__(self, folder: str | None = None, onnx: bool = False) -> None:
        self.folder = folder
        self.onnx = onnx
        self._step_sizes: dict[str, dict[str, float]] = {}  # per unit, the largest and the last
        self._metrics: dict[str, float] = {}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not hasattr(pl_module, "export"):
            rank_zero_warn(f"ModelExporter: {type(pl_module).__name__} has no method export; nothing will be written")

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        for name, size in (pair for optimizer in trainer.optimizers for pair in step_sizes(optimizer).items()):
            largest = max(size, self._step_sizes.get(name, {}).get("largest", size))
            self._step_sizes[name] = {"largest": largest, "last": size}

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
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
            rank_zero_warn(f"ModelExporter: {best} is a checkpoint in parts; nothing is written")
            return
        if best is None:
            facts = self._facts(trainer, pl_module)
            facts["checkpoint"] = f"those of the last step, {trainer.global_step}; no checkpoint was kept"
            for callback in trainer.callbacks:  # type: ignore[attr-defined]
                if isinstance(callback, PretrainedInterpolation) and callback.kept:
                    facts["interpolation"] = callback.found
                    facts["metrics"] = {f"val/{name}": value for name, value in callback.scores.items()}
            temperature = getattr(pl_module, "temperature", 1.0)
            facts |= {} if temperature == 1.0 else {"temperature": temperature}
            weights = pl_module.state_dict()
        else:
            checkpoint = read_checkpoint(best, mmap=True)
            facts, weights = facts_of(checkpoint), checkpoint["state_dict"]
        for path in write_folders(pl_module, trainer.datamodule, Path(folder), weights, facts, self.onnx):  # type: ignore[attr-defined]
            print(f"exported          {os.path.relpath(path)} ({facts['checkpoint']})")

    def _facts(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        values = hyperparameters(trainer, pl_module)
        own = {name.removeprefix("optimizer/"): value for name, value in values.items() if "optimizer/" in name}
        datamodule = getattr(trainer, "datamodule", None)
        rows = getattr(getattr(trainer.train_dataloader, "dataset", None), "__len__", lambda: None)()
        return {
            "data": described_data(datamodule) | ({} if rows is None else {"training rows": rows}),
            "metrics": dict(self._metrics),
            "optimizer": {"class": values.get("Optimizer", "none")} | own,
            "step_sizes": {name: dict(sizes) for name, sizes in self._step_sizes.items()},
            "searched": any(traits(optimizer).sets_step_size for optimizer in trainer.optimizers),
            "max_length": getattr(datamodule, "max_length", None),
            "pairs": len(text_columns(datamodule)) == 2,
        }


def write_folders(
    module: Any, datamodule: Any, folder: Path, weights: dict[str, Any], facts: dict[str, Any], onnx: bool = False
) -> list[Path]:
    """Write a module's ``model`` and ``adapter`` folders, as far as it has them, and return them."""
    written = []
    if module.can_be_exported:
        tokenizer = getattr(datamodule, "tokenizer", None)
        at = free_name(folder / "model")
        written.append(module.export(at, tokenizer, weights=weights, facts=facts, onnx=onnx))
    if module.adapted is not None:
        written.append(module.save_adapter(free_name(folder / "adapter"), weights=weights))
    return written


def export_checkpoint(module: Any, datamodule: Any, path: str, to: str, onnx: bool = False, merge: bool = True) -> Path:
    """Write a checkpoint as a folder that transformers loads alone, or as peft's own folder of its adapter.

    Args:
        module: The checkpoint's module.
        datamodule: The datamodule of its run, for tokenizer and maximum length.
        path: The checkpoint.
        to: Folder to write; must not exist yet, or be empty.
        onnx: Whether to write ``model.onnx`` as well.
        merge: Whether to merge an adapter into the weights.
    """
    checkpoint = read_checkpoint(path, mmap=True)
    module.on_load_checkpoint(checkpoint)  # which refuses one of another model
    weights = checkpoint["state_dict"]
    if not merge:
        return module.save_adapter(to, weights=weights)
    own = {"max_length": getattr(datamodule, "max_length", None), "pairs": len(text_columns(datamodule)) == 2}
    facts = own | facts_of(checkpoint)
    return module.export(to, getattr(datamodule, "tokenizer", None), weights=weights, facts=facts, onnx=onnx)


def upload(folder: Path, name: str) -> str:
    """Upload a folder to a repository on the Hugging Face hub and return its address; a new one is private.

    Raises:
        MisconfigurationException: The hub refused it: no token, no right, or no such place.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        address = api.create_repo(name, private=True, exist_ok=True)
        api.upload_folder(folder_path=folder, repo_id=address.repo_id, commit_message="Model exported by linetune")
    except (OSError, ValueError) as error:  # its own errors are of these two kinds
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise MisconfigurationException(
            f"push_to_hub: {name}: {reason} (the folder is complete: {folder}; `hf auth login` gives a token)"
        ) from error
    return str(address)


def free_name(path: Path) -> Path:
    """Return the path, or with ``-v1``, ``-v2``, … behind its name the first one that does not exist."""
    found, version = path, 0
    while found.exists():
        version += 1
        found = path.with_name(f"{path.name}-v{version}")
    return found


def best_checkpoint(trainer: Trainer) -> str | None:
    """Return the path of the best checkpoint of a run, if it kept one on this machine."""
    callback = trainer.checkpoint_callback
    path = callback.best_model_path if isinstance(callback, ModelCheckpoint) else ""
    return path if os.path.exists(path) else None


def facts_of(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Return what a checkpoint tells of its training: all that a model card states, or less without ModelExporter."""
    facts = dict(checkpoint.get(FACTS) or {})
    if not facts:
        names = checkpoint.get("optimizer_names") or ["unknown"]
        facts["optimizer"] = {"class": names[0]}
    temperature = (checkpoint.get("task") or {}).get("temperature", 1.0)
    facts |= {} if temperature == 1.0 else {"temperature": temperature}
    callbacks = checkpoint.get("callbacks") or {}
    scores = [state for name, state in callbacks.items() if name.startswith("ModelCheckpoint") and state.get("monitor")]
    is_best = any(state["current_score"] == state["best_model_score"] for state in scores)
    kind = "the best checkpoint" if is_best else "a checkpoint"
    monitored = f", {scores[0]['monitor']} {float(scores[0]['current_score']):.4f}" if scores else ""
    if INTERPOLATION in checkpoint:
        kind += ", interpolated"
        facts["interpolation"] = checkpoint[INTERPOLATION]["text"]
    facts["checkpoint"] = f"{kind}, step {checkpoint.get('global_step')}{monitored}"
    return facts


def step_sizes(optimizer: Optimizer) -> dict[str, float]:
    """Return the step size in force of every part that has its own; of an ordinary optimizer, its largest rate."""
    if hasattr(optimizer, "unit_reports"):
        return {name: float(report.step_size) for name, report in optimizer.unit_reports().items()}
    rates = [float(group["lr"]) for group in optimizer.param_groups if group.get("lr") is not None]
    return {"model": max(rates)} if rates else {}


def described_data(datamodule: Any) -> dict[str, Any]:
    """Return a datamodule's class and those of its hyperparameters that are texts, without its folders."""
    if datamodule is None:
        return {}
    texts = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in dict(datamodule.hparams).items()
        if not name.startswith("_") and not name.endswith("_dir") and name != "tokenizer"
        if isinstance(value, str) or (isinstance(value, list | tuple) and all(isinstance(v, str) for v in value))
    }
    return {"class": type(datamodule).__name__} | texts


def text_columns(datamodule: Any) -> tuple[str, ...]:
    """Return the names of a datamodule's text columns, as far as it tells them."""
    source = datamodule if hasattr(datamodule, "text_columns") else getattr(datamodule, "task", None)
    names = getattr(source, "text_columns", None) or getattr(datamodule, "hparams", {}).get("text_columns") or ()
    return (names,) if isinstance(names, str) else tuple(names)
