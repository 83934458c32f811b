"""Generator of GLUE-like tasks, without network and files."""

from __future__ import annotations

import hashlib
import json
import random
from functools import cached_property

import datasets

from datamodules.generated.synthetic_inference import EXPEDITION, TOWN, natural_language_inference, qnli, rte, wnli
from datamodules.generated.synthetic_sentences import cola, sst2
from datamodules.generated.synthetic_similarity import mrpc, qqp, stsb
from datamodules.generated.synthetic_words import Grammar, Row
from datamodules.glue.glue_tasks import Task, find_task

GRAMMARS: dict[str, Grammar] = {
    "cola": cola,
    "sst2": sst2,
    "mrpc": mrpc,
    "qqp": qqp,
    "stsb": stsb,
    "mnli": natural_language_inference(TOWN),
    "mnli_mismatched": natural_language_inference(EXPEDITION),
    "qnli": qnli,
    "rte": rte,
    "wnli": wnli,
}
TRAIN_ROWS = 2048
EVAL_ROWS = 512


class SyntheticSource:
    """Draws rows at random from a grammar per task, the same rows on every machine for the same seed.

    The training split has 2048 rows, every other split 512, with balanced classes (stsb: scores 0 to 5 in steps of
    0.5). No sentence occurs in two splits. All splits have labels, including test splits. mnli's mismatched splits use
    another vocabulary than its training split; ax mixes the two.

    Args:
        task: The task to generate.
        seed: Seed of the random rows.
    """

    def __init__(self, task: Task, seed: int = 0) -> None:
        self.task = task
        self.seed = seed

    def fingerprint(self, split: str) -> str:
        # Hash the rows, which are drawn quickly, so that any change of a grammar changes it.
        return hashlib.sha256(json.dumps(self._rows[split]).encode()).hexdigest()

    def read(self, split: str) -> datasets.Dataset:
        rows = self._rows[split]
        columns: dict[str, list] = {
            name: [texts[position] for texts, _ in rows] for position, name in enumerate(self.task.text_columns)
        }
        columns["label"] = [target for _, target in rows]
        features = {name: datasets.Value("string") for name in self.task.text_columns}
        features["label"] = datasets.Value("float32" if self.task.is_regression else "int64")
        return datasets.Dataset.from_dict(columns, features=datasets.Features(features))

    @cached_property
    def _rows(self) -> dict[str, list[Row]]:
        # ax is drawn as one more split of mnli, so that it shares no sentence with mnli's training split.
        family = find_task("mnli" if self.task.name == "ax" else self.task.name)
        splits = [*family.splits, "ax"] if family.name == "mnli" else list(family.splits)
        rng = random.Random(f"{self.seed} {family.name}")
        # For stsb's grammar the "class" is the number of shared parts, 0 to 5.
        classes = 6 if family.is_regression else family.num_labels
        rows: dict[str, list[Row]] = {}
        used: set[str] = set()
        for split in splits:
            size = TRAIN_ROWS if split == "train" else EVAL_ROWS
            rows[split] = _draw(rng, _grammars(family, split), classes, size, used)
            used.update(text for texts, _ in rows[split] for text in texts)
        return {"test": rows["ax"]} if self.task.name == "ax" else rows


def _grammars(family: Task, split: str) -> list[Grammar]:
    if split == "ax":
        return [GRAMMARS["mnli"], GRAMMARS["mnli_mismatched"]]
    return [GRAMMARS["mnli_mismatched" if split.endswith("_mismatched") else family.name]]


def _draw(rng: random.Random, grammars: list[Grammar], classes: int, size: int, used: set[str]) -> list[Row]:
    """Draw distinct rows with balanced classes, shuffled, without any sentence of ``used``."""
    rows: list[Row] = []
    drawn: set[tuple[str, ...]] = set()
    while len(rows) < size:
        texts, target = grammars[len(rows) // classes % len(grammars)](rng, len(rows) % classes)
        if texts not in drawn and used.isdisjoint(texts):
            drawn.add(texts)
            rows.append((texts, target))
    return sorted(rows, key=lambda _: rng.random())
