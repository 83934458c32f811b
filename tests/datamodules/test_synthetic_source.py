from __future__ import annotations

import functools
import itertools
import json
import math
import os
import subprocess
import sys
from collections import Counter

import pytest

from datamodules import TASKS
from datamodules.generated.synthetic_source import SyntheticSource


@functools.cache
def rows(task, seed=0):
    source = SyntheticSource(TASKS[task], seed)
    return {split: source.read(split) for split in TASKS[task].splits}


def sentences(task, dataset):
    return {text for column in TASKS[task].text_columns for text in dataset[column]}


@pytest.mark.parametrize("task", TASKS)
def test_no_two_splits_share_a_sentence(task):
    splits = [sentences(task, dataset) for dataset in rows(task).values()]
    assert sum(map(len, splits)) == len(set.union(*splits))


def test_ax_shares_no_sentence_with_mnli():
    trained = set.union(*(sentences("mnli", dataset) for dataset in rows("mnli").values()))
    assert trained.isdisjoint(sentences("ax", rows("ax")["test"]))


@pytest.mark.parametrize("task", TASKS)
def test_rows_are_distinct_and_all_labelled(task):
    for split, dataset in rows(task).items():
        assert len(dataset) == (2048 if split == "train" else 512)
        assert len(set(zip(*(dataset[column] for column in TASKS[task].text_columns), strict=True))) == len(dataset)
        assert "label" in dataset.column_names


@pytest.mark.parametrize("task", [name for name in TASKS if name != "stsb"])
def test_classes_are_balanced(task):
    for dataset in rows(task).values():
        counts = Counter(dataset["label"])
        assert sorted(counts) == list(range(TASKS[task].num_labels))
        assert max(counts.values()) - min(counts.values()) <= 1


def test_scores_span_zero_to_five():
    scores = Counter(rows("stsb")["train"]["label"])
    assert set(scores) == {step / 2 for step in range(11)}
    assert max(scores.values()) < 0.2 * 2048


@pytest.mark.parametrize("task", TASKS)
def test_classes_do_not_come_in_order(task):
    # A run of one class, or a regular turn, would make batches unlike each other.
    labels = list(rows(task)["test" if task == "ax" else TASKS[task].splits[0]]["label"])
    changes = sum(first != second for first, second in itertools.pairwise(labels))
    classes = TASKS[task].num_labels
    expected = (1 - 1 / classes) * len(labels) if classes > 1 else 0.85 * len(labels)
    assert changes == pytest.approx(expected, rel=0.15)


def test_the_seed_and_nothing_else_decides_the_rows():
    # The package itself is left out: it imports a great deal that generating rows does not need.
    script = (
        "import sys, types; sys.modules['datamodules'] = types.ModuleType('datamodules'); "
        "sys.modules['datamodules'].__path__ = ['datamodules']; "
        "import json; from datamodules.glue.glue_tasks import TASKS; "
        "from datamodules.generated.synthetic_source import SyntheticSource; "
        "print(json.dumps({name: SyntheticSource(TASKS[name], 7).read(TASKS[name].splits[-1])[:50] for name in TASKS}))"
    )
    # Strings hash differently in the other process.
    hash_seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    other = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=True,
    )
    here = {name: SyntheticSource(TASKS[name], 7).read(TASKS[name].splits[-1])[:50] for name in TASKS}
    assert json.loads(other.stdout) == here
    assert rows("sst2", 7)["train"][:50] != rows("sst2", 8)["train"][:50]


def test_the_fingerprint_tells_task_split_and_seed_apart():
    prints = {
        SyntheticSource(TASKS[task], seed).fingerprint(split)
        for task in ("sst2", "cola")
        for split in ("train", "test")
        for seed in (0, 1)
    }
    assert len(prints) == 8


def test_words_alone_tell_the_class_of_most_reviews():
    # What a bag of words learns on one half carries over to the other; what negations and contrasts do, it cannot see.
    dataset = rows("sst2")["train"]
    seen: list[Counter[str]] = [Counter(), Counter()]
    half = len(dataset) // 2
    for text, label in zip(dataset["sentence"][:half], dataset["label"][:half], strict=True):
        seen[label].update(text.split())
    right = [
        (sum(math.log((seen[1][word] + 1) / (seen[0][word] + 1)) for word in text.split()) > 0) == bool(label)
        for text, label in zip(dataset["sentence"][half:], dataset["label"][half:], strict=True)
    ]
    assert 0.7 < sum(right) / len(right) < 0.9
