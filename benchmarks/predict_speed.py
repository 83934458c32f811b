"""Texts per second of `predict_texts` beside transformers' pipeline, on the same model, texts and cores.

    OMP_NUM_THREADS=1 python -m benchmarks.predict_speed --texts 20000

The packaged MiniLM with a new head is exported; both then predict the same texts of mixed length in turn, a round of
each at a time, so that both see the same load of the machine. Lengths are log-normal: half of the texts are of one
sentence or two, a few fill the 256 tokens at which both cut. The largest difference of a probability is shown.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import pipeline

from benchmarks import markdown
from datamodules.generated.synthetic_source import SyntheticSource
from datamodules.glue.glue_tasks import find_task
from lightning_modules import SequenceClassifier
from lightning_modules.trained_model.text_prediction import TOKENS_ON_CPU

MAX_LENGTH = 256
BATCH_SIZE = 32


def mixed_texts(count: int) -> list[str]:
    """Return texts of one to many generated sentences."""
    chance = random.Random(0)
    sentences = SyntheticSource(find_task("sst2")).read("train")["sentence"]
    lengths = [max(1, round(chance.lognormvariate(0.5, 0.9))) for _ in range(count)]
    return [" ".join(chance.choices(sentences, k=length)) for length in lengths]


def measure(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return the median of the seconds of each call, all called in turn in every round."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in seconds.items()}


def compare(folder: str, texts: Sequence[str], rounds: int, tokens_per_batch: Sequence[int]) -> str:
    """Return a table of texts per second with the model in a folder."""
    classifier = SequenceClassifier(folder)
    classify: Callable[..., Any] = pipeline("text-classification", model=folder, device="cpu")
    found: dict[str, list[dict[str, float]]] = {}

    def by_pipeline() -> None:
        outputs = classify(list(texts), top_k=None, truncation=True, batch_size=BATCH_SIZE)
        found["pipeline"] = [{entry["label"]: entry["score"] for entry in each} for each in outputs]

    def by_classifier(tokens: int) -> Callable[[], None]:
        def call() -> None:
            outputs = classifier.predict_texts(texts, tokens_per_batch=tokens)
            found["classifier"] = [each["probabilities"] for each in outputs]

        return call

    calls: dict[str, Callable[[], object]] = {f"pipeline, batch_size={BATCH_SIZE}": by_pipeline}
    calls |= {f"predict_texts, {tokens} tokens per batch": by_classifier(tokens) for tokens in tokens_per_batch}
    seconds = measure(calls, rounds)
    first = next(iter(seconds.values()))
    rows = [
        [name, f"{spent:.1f}", f"{len(texts) / spent:.0f}", f"{first / spent:.2f}"] for name, spent in seconds.items()
    ]
    gap = max(
        abs(one[label] - other[label])
        for one, other in zip(found["pipeline"], found["classifier"], strict=True)
        for label in one
    )
    table = markdown.table(["", "seconds", "texts per second", "times the pipeline's"], rows)
    return f"{table}\n\nlargest difference of a probability: {gap:.1e}"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=20_000, help="number of texts")
    parser.add_argument("--rounds", type=int, default=1, help="how often each is measured; the median counts")
    parser.add_argument(
        "--tokens-per-batch", type=int, nargs="+", default=[TOKENS_ON_CPU], help="batches of predict_texts"
    )
    arguments = parser.parse_args()
    print(f"{arguments.texts} texts, {torch.get_num_threads()} thread(s), torch {torch.__version__}\n")
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        exported = SequenceClassifier(num_labels=2).export(Path(folder) / "model", facts={"max_length": MAX_LENGTH})
        print(compare(str(exported), mixed_texts(arguments.texts), arguments.rounds, arguments.tokens_per_batch))


if __name__ == "__main__":
    main()
