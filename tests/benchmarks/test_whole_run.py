"""The benchmark of whole runs: what it measures of a process, the rows of both sides, and that both compute alike."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks import transformers_trainer, whole_run
from callbacks.reports.run_summary import RunSummary
from datamodules import GLUEDataModule
from tests.glue_files import FILES
from tests.tiny_texts import tiny_classifier, tiny_texts


def test_time_and_memory_are_those_of_the_process_alone(tmp_path: Path) -> None:
    """Linux counts the peak of memory of the process that starts a program into the program's own."""
    kept = torch.ones(100 * 2**18)  # 100 MiB
    code = "import time\nkept = b'1' * 2**26\nwhile time.process_time() < 0.5: pass\nprint('done')"
    done = whole_run.run([sys.executable, "-c", code], tmp_path)
    assert done.output == "done\n"
    assert 0.5 <= done.seconds < 1.5
    assert 64 < done.mebibytes < 64 + kept.nbytes / 2**20


def test_a_program_that_fails_is_an_error_with_its_words(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="no such thing"):
        whole_run.run([sys.executable, "-c", "raise SystemExit('no such thing')"], tmp_path)


def test_both_sides_read_the_same_rows(tmp_path: Path) -> None:
    (tmp_path / "glue").mkdir()
    for name, content in FILES["SST-2"].items():
        (tmp_path / "glue" / name).write_text(content, encoding="utf-8", newline="")
    whole_run.write_rows(tmp_path / "glue", tmp_path / "part" / "SST-2", rows=2)
    theirs = transformers_trainer.read(tmp_path / "part" / "SST-2" / "train.tsv", "sst2")
    data = GLUEDataModule("sst2", data_dir=str(tmp_path / "part"), cache_dir=str(tmp_path / "cache"))
    ours = data._make_source().read("train")
    assert len(theirs) == 2
    assert [(text, row["label"]) for row in theirs for text in row["texts"]] == [
        (row["sentence"], row["label"]) for row in ours
    ]


def test_the_heading_names_the_command_with_the_size_of_its_runs() -> None:
    options = Namespace(tasks=["mrpc"], rows=7, epochs=3, texts=0, repeats=2)
    assert " --tasks mrpc --rows 7 --epochs 3 --texts 0 --repeats 2`" in whole_run.heading(options)


def test_scores_are_of_the_last_validation_on_both_sides(capsys: pytest.CaptureFixture[str]) -> None:
    summary = RunSummary()
    fit = SimpleNamespace(state=SimpleNamespace(fn="fit"), sanity_checking=False, checkpoint_callback=None)
    fit.ckpt_path, fit.callbacks = None, []
    for fit.global_step, loss, accuracy in ((8, 0.25, 0.75), (16, 0.5, 0.625)):
        fit.callback_metrics = {"val/loss": loss, "val/accuracy": accuracy, "train/loss": 1.0}
        summary.on_validation_end(fit, None)  # type: ignore[arg-type]
    ours = "\n".join(summary._validation_lines(fit))  # type: ignore[arg-type]
    theirs = "\n".join(json.dumps({"eval_loss": 0.5, "eval_accuracy": 0.625, "epoch": epoch}) for epoch in (1, 2))
    assert whole_run.scores(ours, "sst2") == whole_run.scores(theirs, "sst2") == (0.5, 0.625)


def test_their_predictions_are_ours(tmp_path: Path) -> None:
    classifier = tiny_classifier(tmp_path / "start")
    folder = classifier.export(tmp_path / "model")
    texts = tiny_texts(20)
    file = tmp_path / "texts.csv"
    file.write_text("text,label\n" + "".join(f"{text},0\n" for text in texts), encoding="utf-8")
    transformers_trainer.main(["predict", "--data", str(file), "--model", str(folder), "--output", str(tmp_path)])
    found = whole_run.probabilities(tmp_path)
    name = classifier.label_names[1]
    ours = [each["probabilities"][name] for each in classifier.predict_texts(texts)]
    assert [found[text].pop(0) for text in texts] == pytest.approx(ours, abs=1e-6)
