"""PredictionWriter: the input's rows and columns in their order, and the predictions beside them."""

from __future__ import annotations

import csv
import json
import multiprocessing
import resource
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.utils.data import DataLoader

from callbacks import PredictionWriter
from callbacks.outputs.prediction_writer import free_column, predicted_by_row
from lightning_modules.metrics import predicted_labels
from lightning_modules.trained_model.text_prediction import named_predictions
from tests.quiet_trainer import quiet_trainer
from tests.ranks import on_ranks

TEXTS = ["plain", "NA", 'with "quotes", a comma', "two\nlines", "a\ttab", "plain", ""]


class Rows(LightningDataModule):
    """Rows of a file; those of ``order`` are predicted, in this order."""

    def __init__(self, columns: dict[str, list], order: list[int] | None = None, sampler: Any = None) -> None:
        super().__init__()
        self.predict_rows = datasets.Dataset.from_dict(columns)
        self.order = list(range(len(self.predict_rows))) if order is None else order
        self.sampler = sampler

    def predict_dataloader(self) -> DataLoader:
        return DataLoader([{"idx": row} for row in self.order], batch_size=2, sampler=self.sampler)


class Predictor(LightningModule):
    """Predicts label ``row % labels``, or score ``row / 3``."""

    def __init__(self, names: tuple[str, ...], problem_type: str = "single_label_classification") -> None:
        super().__init__()
        self.names = names
        self.model = torch.nn.Module()
        self.model.config = SimpleNamespace(  # type: ignore[assignment]
            num_labels=len(names), id2label=dict(enumerate(names)), problem_type=problem_type
        )

    def predict_step(self, batch: dict, batch_idx: int) -> dict[str, torch.Tensor]:
        rows = batch["idx"]
        if len(self.names) == 1:
            return {"idx": rows, "scores": rows / 3}
        hit = torch.nn.functional.one_hot(rows % len(self.names), len(self.names))
        return {"idx": rows, "probabilities": hit * 0.5 + 0.25}


def predict(
    module: LightningModule, data: LightningDataModule, root: Path, writer: PredictionWriter, **options: Any
) -> None:
    trainer = quiet_trainer(default_root_dir=root, callbacks=[writer], **options)
    trainer.predict(module, datamodule=data, return_predictions=False)


@pytest.mark.parametrize(("suffix", "delimiter"), [(".csv", ","), (".tsv", "\t")])
def test_a_table_has_the_rows_columns_and_order_of_the_input(tmp_path: Path, suffix: str, delimiter: str) -> None:
    file = tmp_path / f"out{suffix}"
    data = Rows({"text": TEXTS, "stars": list(range(7))}, order=[6, 2, 4, 0, 1, 3, 5])
    predict(Predictor(("bad", "good")), data, tmp_path, PredictionWriter(str(file)))
    with file.open(newline="") as stream:
        header, *rows = csv.reader(stream, delimiter=delimiter)
    assert header == ["text", "stars", "prediction", "probability_bad", "probability_good"]
    assert rows == [
        [text, str(row), ("bad", "good")[row % 2], *(("0.75", "0.25") if row % 2 == 0 else ("0.25", "0.75"))]
        for row, text in enumerate(TEXTS)
    ]


def test_json_lines_keep_the_types_of_the_columns(tmp_path: Path) -> None:
    file = tmp_path / "out.jsonl"
    data = Rows({"text": ["ä", "b"], "tags": [["x"], []], "n": [1.5, None]})
    predict(Predictor(("bad", "good")), data, tmp_path, PredictionWriter(str(file)))
    assert "ä" in file.read_text(encoding="utf-8")
    assert [json.loads(line) for line in file.read_text().splitlines()] == [
        {"text": "ä", "tags": ["x"], "n": 1.5, "prediction": "bad", "probabilities": {"bad": 0.75, "good": 0.25}},
        {"text": "b", "tags": [], "n": None, "prediction": "good", "probabilities": {"bad": 0.25, "good": 0.75}},
    ]


def test_scores_and_any_number_of_labels(tmp_path: Path) -> None:
    for names, problem, suffix in (
        (("score",), "regression", ".csv"),
        (("a", "b"), "multi_label_classification", ".csv"),
        (("a", "b"), "multi_label_classification", ".jsonl"),
    ):
        writer = PredictionWriter(str(tmp_path / f"{problem}{suffix}"))
        predict(Predictor(names, problem), Rows({"text": ["x", "y"]}), tmp_path, writer)
    assert (tmp_path / "regression.csv").read_text() == "text,prediction\nx,0.0\ny,0.3333333\n"
    table = list(csv.DictReader((tmp_path / "multi_label_classification.csv").open()))
    assert [json.loads(row["prediction"]) for row in table] == [["a"], ["b"]]
    lines = (tmp_path / "multi_label_classification.jsonl").read_text().splitlines()
    assert [json.loads(line)["prediction"] for line in lines] == [["a"], ["b"]]


def test_rows_without_a_prediction_stay_with_empty_cells(tmp_path: Path) -> None:
    for suffix in (".csv", ".jsonl"):
        file = tmp_path / f"out{suffix}"
        with pytest.warns(UserWarning, match=r"out\.\w+: 5 of 7 rows have no prediction"):
            predict(
                Predictor(("bad", "good")), Rows({"text": TEXTS}, order=[1, 3]), tmp_path, PredictionWriter(str(file))
            )
    predicted = [row["prediction"] for row in csv.DictReader((tmp_path / "out.csv").open(newline=""))]
    assert predicted == ["", "good", "", "good", "", "", ""]
    lines = [json.loads(line)["prediction"] for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert lines == [None, "good", None, "good", None, None, None]


def test_columns_of_the_input_are_never_replaced(tmp_path: Path) -> None:
    data = Rows({"prediction": ["mine"], "probability_bad": ["p"]})
    predict(Predictor(("bad", "good")), data, tmp_path, PredictionWriter(str(tmp_path / "out.csv")))
    header, row = (tmp_path / "out.csv").read_text().splitlines()
    assert header == "prediction,probability_bad,prediction_,probability_bad_,probability_good"
    assert row == "mine,p,bad,0.75,0.25"


@given(st.lists(st.sampled_from(["a", "a_", "a__", "b"])))
def test_a_free_column_is_free(taken: list[str]) -> None:
    assert free_column("a", taken) not in taken


@settings(max_examples=25)
@given(
    texts=st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")), min_size=1, max_size=8)
)
def test_any_text_is_read_back_as_it_was(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    root = tmp_path_factory.mktemp("texts")
    for suffix in (".csv", ".tsv", ".jsonl"):
        file = root / f"out{suffix}"
        predict(Predictor(("bad", "good")), Rows({"text": texts}), root, PredictionWriter(str(file)))
        with file.open(newline="", encoding="utf-8") as stream:
            if suffix == ".jsonl":
                # Not str.splitlines, which also cuts at characters that JSON leaves as they are.
                found = [json.loads(line)["text"] for line in stream.read().split("\n")[:-1]]
            else:
                found = [row["text"] for row in csv.DictReader(stream, delimiter="\t" if suffix == ".tsv" else ",")]
        assert found == texts


def test_the_default_file_is_in_the_runs_folder_and_none_is_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Without a logger runs share a folder, as those of a loop over files."""
    files = ["predictions.csv", "predictions-v1.csv", "predictions-v2.csv"]
    for number, file in enumerate(files, start=1):
        predict(Predictor(("bad", "good")), Rows({"text": TEXTS[:number]}), tmp_path, PredictionWriter())
        assert f"{file} ({number} rows)" in capsys.readouterr().out
        with open(tmp_path / file, newline="", encoding="utf-8") as stream:
            assert [row["text"] for row in csv.DictReader(stream)] == TEXTS[:number]
    assert {path.name for path in tmp_path.iterdir()} == set(files), "nothing unfinished is left"


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    module = Predictor(("bad", "good"))
    module.model.config.id2label = {0: "bad", 1: "\udc00"}  # type: ignore[union-attr]
    with pytest.raises(UnicodeEncodeError):
        predict(module, Rows({"text": ["a"]}), tmp_path, PredictionWriter(str(tmp_path / "out.csv")))
    assert not list(tmp_path.iterdir())


def predict_under_limit(folder: Path, results: Any) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (50, 50))
    try:
        predict(Predictor(("bad", "good")), Rows({"text": ["a" * 40] * 9}), folder, PredictionWriter(f"{folder}/o.csv"))
    except OSError as error:
        results.put(str(error))


def test_a_file_that_does_not_fit_is_named_and_nothing_of_it_is_left(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    writer = context.Process(target=predict_under_limit, args=(tmp_path, results))
    writer.start()
    writer.join()
    assert writer.exitcode == 0
    assert results.get().endswith(f"File too large; nothing of the file is left: '{tmp_path / 'o.csv'}'")
    assert not list(tmp_path.iterdir())


def test_bad_settings_are_refused_before_anything_is_predicted(tmp_path: Path) -> None:
    class Unused(Predictor):
        def predict_step(self, batch: dict, batch_idx: int) -> dict[str, torch.Tensor]:
            raise AssertionError("predicted")

    class Foreign(LightningDataModule):
        def predict_dataloader(self) -> DataLoader:
            return DataLoader([{"idx": 0}])

    module, data = Unused(("bad", "good")), Rows({"text": TEXTS})
    (tmp_path / "mine.csv").write_text("mine")
    with pytest.raises(MisconfigurationException, match=r"'out.xlsx' has to end in .csv, .tsv, .jsonl$"):
        PredictionWriter("out.xlsx")
    with pytest.raises(MisconfigurationException, match=r"^PredictionWriter: .*mine.csv exists; name a new file$"):
        predict(module, data, tmp_path, PredictionWriter(str(tmp_path / "mine.csv")))
    with pytest.raises(MisconfigurationException, match=r"cannot make .*mine.csv: (Not a directory|File exists)$"):
        predict(module, data, tmp_path, PredictionWriter(str(tmp_path / "mine.csv" / "out.csv")))
    with pytest.raises(MisconfigurationException, match=r"needs a datamodule with predict_rows, not Foreign$"):
        predict(module, Foreign(), tmp_path, PredictionWriter())
    assert (tmp_path / "mine.csv").read_text() == "mine"


def _predict_in_a_process(rank: int, root: str) -> None:
    for count, names in ((7, ("bad", "good", "so so")), (5, ("score",)), (1, ("bad", "good"))):
        # The usual distributed sampler gives five rows out as three and three.
        sampler = torch.utils.data.DistributedSampler(range(count), num_replicas=2, rank=rank, shuffle=False)
        data = Rows({"text": TEXTS[:count]}, sampler=sampler)
        writer = PredictionWriter(f"{root}/out{count}.csv")
        predict(Predictor(names), data, Path(root), writer, strategy="ddp", devices=2)


@pytest.mark.distributed
@pytest.mark.slow
def test_two_processes_write_one_file(tmp_path: Path) -> None:
    on_ranks(_predict_in_a_process, str(tmp_path))
    for count, names in ((7, ("bad", "good", "so so")), (5, ("score",)), (1, ("bad", "good"))):
        rows = list(csv.DictReader((tmp_path / f"out{count}.csv").open(newline="")))
        assert [row["text"] for row in rows] == TEXTS[:count]
        expected = [names[row % len(names)] if len(names) > 1 else str(float(f"{row / 3:.7g}")) for row in range(count)]
        assert [row["prediction"] for row in rows] == expected


def test_labels_of_a_text_are_those_that_metrics_count() -> None:
    """Also at a logit of 0, where a head that starts with zeros has all of them."""
    logits, names = torch.tensor([[0.0, 0.1, -0.1, 0.0]]), ["a", "b", "c", "d"]
    (counted,) = predicted_labels(logits, "multi_label_classification").tolist()
    labels = [name for name, is_one in zip(names, counted, strict=True) if is_one]
    written = predicted_by_row(torch.tensor([0]), logits.sigmoid(), names, "multi_label_classification")(0)
    (told,) = named_predictions(logits.sigmoid(), names, "multi_label_classification")
    assert written is not None
    assert written[0] == told["labels"] == labels == ["b"]
