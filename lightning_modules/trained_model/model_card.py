"""The model card of an exported classifier: what it is, how it was trained, how to use it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig

from lightning_modules.models.packaged_models import OFFLINE_PREFIX

_KINDS = {
    "single_label_classification": "Classifier: one label per text.",
    "multi_label_classification": "Classifier: any number of labels per text, each with a probability of its own.",
    "regression": "Regressor: one score per text, in the unit of the training data.",
}


def model_card(config: PretrainedConfig, base: str, facts: Mapping[str, Any], *, onnx: bool = False) -> str:
    """Return the text of a model card, with the hub's metadata in front.

    Args:
        config: The exported model's configuration.
        base: Name of the pretrained model; of a folder the card has the last part alone, since cards are published.
        facts: What is known about the training, in plain types, each optional: ``data``, ``metrics`` and ``optimizer``
            (values by name), ``step_sizes`` (per unit, the ``largest`` and the ``last``), ``searched`` (whether the
            optimizer found these itself), ``step``, ``checkpoint`` (which weights these are),
            ``interpolation`` (where they lie between the pretrained and the trained ones, and what it changed),
            ``max_length`` (tokens), ``pairs`` (whether an input is a pair of texts), ``reading`` (options of the
            datamodule, ``long_texts`` and ``max_windows`` among them), ``temperature`` (of calibration).
        onnx: Whether there is a ``model.onnx``.
    """
    is_folder = base.startswith(("/", ".", "~")) or (base != "" and Path(base).is_dir())
    metadata = ["library_name: transformers", "pipeline_tag: text-classification", "tags:", "- linetune"]
    if base and not is_folder and not base.startswith(OFFLINE_PREFIX):  # the hub takes the name of a repository alone
        metadata.append(f"base_model: {base}")
    names = [str(name) for _, name in sorted((config.id2label or {}).items())]
    is_regression = config.problem_type == "regression"
    parts = [
        "\n".join(["---", *metadata, "---"]),
        "# Text regressor" if is_regression else "# Text classifier",
        f"{_KINDS[str(config.problem_type)]} A {type(config).__name__.removesuffix('Config')}, fine-tuned from "
        f"`{Path(base).resolve().name if is_folder else base}` with linetune; transformers alone loads it.",
    ]
    if not is_regression:
        parts.append(f"{len(names)} labels: {', '.join(f'`{name}`' for name in names)}.")
    parts += ["## Use", _usage(bool(facts.get("pairs")), facts.get("max_length"), facts.get("reading") or {})]
    if onnx:
        parts.append("`model.onnx` is the same model for onnxruntime; it returns logits.")
    for title, key in (("Data", "data"), ("Metrics", "metrics")):
        lines = _list(facts.get(key) or {})
        parts += [f"## {title}", lines or "Not recorded."]
    parts += ["## Training", _training(facts)]
    if (temperature := facts.get("temperature")) is not None:
        function = "sigmoid" if config.problem_type == "multi_label_classification" else "softmax"
        parts += [
            "## Calibration",
            f"Temperature {temperature:.4g}, measured on the validation set: `{function}(logits / {temperature:.4g})` "
            "makes its labels the most likely. The weights are without it.",
        ]
    return "\n\n".join(parts) + "\n"


def _usage(pairs: bool, max_length: int | None, reading: Mapping[str, Any]) -> str:
    text = '{"text": "First text.", "text_pair": "Second text."}' if pairs else '"Some text."'
    lines = [
        "```python",
        "from transformers import pipeline",
        "",
        'classify = pipeline("text-classification", model="PATH OR NAME OF THIS FOLDER")',
        f"classify({text}, top_k=None, truncation=True)",
        "```",
    ]
    if max_length is not None and reading.get("long_texts") == "windows":
        lines += [
            "",
            f"Training took the mean over up to {reading.get('max_windows')} windows of {max_length} tokens of a text; "
            "`truncation=True` keeps the first window alone, `linetune predict` takes all.",
        ]
    elif max_length is not None:
        lines += ["", f"Training cut texts at {max_length} tokens, and so does `truncation=True`."]
    return "\n".join(lines)


def _training(facts: Mapping[str, Any]) -> str:
    lines = []
    if "checkpoint" in facts:
        lines.append(f"Weights: {facts['checkpoint']}.")
    if "interpolation" in facts:
        lines.append(
            "Interpolated between the pretrained weights (alpha 0) and the trained ones (alpha 1), on validation data: "
            f"{facts['interpolation']}."
        )
    arguments = dict(facts.get("optimizer") or {})
    if arguments:
        lines.append(f"Optimizer: `{arguments.pop('class', 'unknown')}`.")
        lines.append(_list(arguments))
    sizes = facts.get("step_sizes") or {}
    if sizes:
        how = "found by the optimizer" if facts.get("searched") else "set beforehand"
        table = ["| part | largest | last |", "| --- | --- | --- |"]
        table += [f"| {unit} | {size['largest']:.3g} | {size['last']:.3g} |" for unit, size in sizes.items()]
        lines += [f"Step sizes, {how}:", "\n".join(table)]
    return "\n\n".join(line for line in lines if line) or "Not recorded."


def _list(values: Mapping[str, Any]) -> str:
    return "\n".join(f"- {name}: {_shown(value)}" for name, value in values.items())


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
