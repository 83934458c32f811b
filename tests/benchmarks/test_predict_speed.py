"""The benchmark of predictions: its texts and its table."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import predict_speed
from tests.tiny_texts import tiny_classifier, tiny_texts


def test_texts_are_of_mixed_length_and_the_same_each_time() -> None:
    texts = predict_speed.mixed_texts(300)
    lengths = sorted(len(text.split()) for text in texts)
    assert lengths[-1] > 10 * lengths[0]
    assert texts == predict_speed.mixed_texts(300)


def test_the_table_compares_both(tmp_path: Path) -> None:
    folder = tiny_classifier(tmp_path / "start").export(tmp_path / "model")
    table = predict_speed.compare(str(folder), tiny_texts(40), rounds=2, tokens_per_batch=[64, 128])
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:5]]
    names = ["pipeline, batch_size=32", "predict_texts, 64 tokens per batch", "predict_texts, 128 tokens per batch"]
    assert [row[0] for row in rows] == names
    assert rows[0][3] == "1.00"
    assert float(table.rpartition(" ")[2]) < 1e-5


def test_the_median_of_the_rounds_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0, 1.0, 6.0, 6.0, 8.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    assert predict_speed.measure({"a": lambda: None}, rounds=3) == {"a": 2.0}
