"""What is exported is loaded by transformers alone, and predicts what the classifier does."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import peft
import pytest
import torch

from lightning_modules import BottleneckConfig, ModelError, SequenceClassifier
from lightning_modules.export import fold_targets, new_folder
from tests.tiny_texts import LABELS, tiny_classifier, tiny_texts, tiny_tokenizer

ARCHITECTURES = ("bert", "roberta", "distilbert", "deberta-v2", "modernbert", "gpt2", "llama")
TEXTS = tiny_texts(9)
PAIRS = list(zip(tiny_texts(5, 6, seed=1), tiny_texts(5, 6, seed=2), strict=True))

# A process in which linetune cannot be imported; it gets cases as JSON and answers with the pipelines' outputs.
ALONE = """
import json, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("linetune", "lightning_modules", "optimizers", "callbacks", "datamodules", "cli"):
            raise ImportError(name)

sys.meta_path.insert(0, Refuse())
import torch
from transformers import pipeline

torch.set_num_threads(1)
answers = []
for case in json.load(sys.stdin):
    classify = pipeline("text-classification", model=case["folder"], device="cpu")
    inputs = [text if isinstance(text, str) else {"text": text[0], "text_pair": text[1]} for text in case["texts"]]
    # One by one and in padded batches.
    answers.append([classify(inputs, top_k=None), classify(inputs, top_k=None, batch_size=4)])
print(json.dumps(answers))
"""


def pipelines_alone(cases: list[dict[str, Any]], cwd: Path) -> list[list[list[list[dict[str, Any]]]]]:
    command = [sys.executable, "-I", "-c", ALONE]
    done = subprocess.run(command, input=json.dumps(cases), cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def train_a_little(module: SequenceClassifier) -> None:
    """Move what trains, so that adapters are not at their start, where they change nothing."""
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)


def with_problem(module: SequenceClassifier, problem: str) -> SequenceClassifier:
    module.model.config.problem_type = problem
    return module


@pytest.mark.slow
def test_a_process_without_linetune_predicts_the_same(tmp_path: Path) -> None:
    cases, expected = [], []
    lora = {"adapter": peft.LoraConfig(r=2, target_modules="all-linear")}
    for architecture in ARCHITECTURES:
        for name, arguments in (("full", {}), ("lora", lora)):
            for num_labels, texts in ((3, TEXTS), (2, PAIRS), (1, TEXTS)):
                at = tmp_path / f"{architecture}-{name}-{num_labels}"
                module = tiny_classifier(at / "start", architecture, num_labels, **arguments)
                train_a_little(module)
                module.export(at / "model")
                cases.append({"folder": str(at / "model"), "texts": texts})
                expected.append((num_labels, module.predict_texts(texts)))
    for case, (num_labels, wanted), answer in zip(cases, expected, pipelines_alone(cases, tmp_path), strict=True):
        for found in answer:
            for row, text in zip(found, wanted, strict=True):
                scores = {entry["label"]: entry["score"] for entry in row}
                own = {"LABEL_0": text["score"]} if num_labels == 1 else text["probabilities"]
                assert scores == pytest.approx(own, abs=1e-5), case["folder"]
        assert num_labels == 1 or tuple(wanted[0]["probabilities"]) == LABELS[num_labels]
