"""Facts about a training that a model card states, from a checkpoint, an optimizer and a datamodule."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch.optim import Optimizer

from callbacks.checkpoints.checkpoint_reading import FACTS
from callbacks.interpolation.interpolated_checkpoint import INTERPOLATION

# Options of a datamodule that a later prediction with the exported model has to repeat.
READING_OPTIONS = ("text_columns", "label_column", "max_length", "long_texts", "max_windows", "window_overlap")


def facts_of(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Return what a checkpoint tells of its training: all that a model card states, or less without ModelExporter."""
    facts = dict(checkpoint.get(FACTS) or {})
    if not facts:
        names = checkpoint.get("optimizer_names") or ["unknown"]
        facts["optimizer"] = {"class": names[0]}
    temperature = (checkpoint.get("task") or {}).get("temperature", 1.0)
    facts |= {} if temperature == 1.0 else {"temperature": temperature}
    callbacks = checkpoint.get("callbacks") or {}
    scores = [
        state
        for name, state in callbacks.items()
        if name.startswith("ModelCheckpoint") and state.get("monitor") and _is_measured(state, facts)
    ]
    is_best = any(state["current_score"] == state["best_model_score"] for state in scores)
    kind = "the best checkpoint" if is_best else "a checkpoint"
    monitored = f", {scores[0]['monitor']} {float(scores[0]['current_score']):.4f}" if scores else ""
    if INTERPOLATION in checkpoint:
        kind += ", interpolated"
        facts["interpolation"] = checkpoint[INTERPOLATION]["text"]
    facts["checkpoint"] = f"{kind}, step {checkpoint.get('global_step')}{monitored}"
    return facts


def _is_measured(state: dict[str, Any], facts: dict[str, Any]) -> bool:
    """Return whether a ModelCheckpoint's score is of the weights beside it, and not of an earlier validation or none.

    A checkpoint that is saved when a run is interrupted has the state of the last one that ModelCheckpoint saved.
    """
    is_later = facts.get("metrics") == {} and state["monitor"].startswith("val")
    return state.get("current_score") is not None and not is_later


def step_sizes(optimizer: Optimizer) -> dict[str, float]:
    """Return the step size in force of every part that has its own; of an ordinary optimizer, its largest rate."""
    if hasattr(optimizer, "unit_reports"):
        return {name: float(report.step_size) for name, report in optimizer.unit_reports().items()}
    rates = [float(group["lr"]) for group in optimizer.param_groups if group.get("lr") is not None]
    return {"model": max(rates)} if rates else {}


def described_data(datamodule: Any) -> dict[str, Any]:
    """Return a datamodule's class and those of its hyperparameters that are texts, without folders.

    A model card is published: of a file it has the name alone, not where it lies on somebody's machine.
    """
    if datamodule is None:
        return {}
    texts = {
        name: _file_names(value) if name.endswith("_file") else list(value) if isinstance(value, tuple) else value
        for name, value in dict(datamodule.hparams).items()
        if not name.startswith("_") and not name.endswith("_dir") and name != "tokenizer"
        if isinstance(value, str) or (isinstance(value, list | tuple) and all(isinstance(v, str) for v in value))
    }
    return {"class": type(datamodule).__name__} | texts


def _file_names(value: str | Sequence[str]) -> str | list[str]:
    return Path(value).name if isinstance(value, str) else [Path(path).name for path in value]


def input_facts(datamodule: Any) -> dict[str, Any]:
    """Return how a datamodule's texts become the model's input, in plain types; what a prediction has to repeat."""
    given = dict(getattr(datamodule, "hparams", {}))
    return {
        "max_length": getattr(datamodule, "max_length", None),
        "pairs": len(_text_columns(datamodule)) == 2,
        "reading": {name: given[name] for name in READING_OPTIONS if given.get(name) is not None},
    }


def _text_columns(datamodule: Any) -> Sequence[str]:
    source = datamodule if hasattr(datamodule, "text_columns") else getattr(datamodule, "task", None)
    names = getattr(source, "text_columns", None) or getattr(datamodule, "hparams", {}).get("text_columns") or ()
    return (names,) if isinstance(names, str) else names
