"""Texts of one's own, from the file to the batch."""

from __future__ import annotations

import json
import logging
import os

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from lightning.pytorch import LightningModule

from datamodules import DataError, TextDataModule
from datamodules.tokens.tokenizer import load_tokenizer
from tests.quiet_trainer import quiet_trainer
from tests.tiny_texts import tiny_tokenizer

MINILM = "offline:all-MiniLM-L6-v2"
NUMBERED = [f"text number {row}" for row in range(40)]


@pytest.fixture
def make(tmp_path):
    def make_datamodule(train=None, **options):
        if train is not None:
            options["train_file"] = write(tmp_path, "train.csv", train)
        options = {"cache_dir": str(tmp_path / "cache"), "tokenizer": MINILM, **options}
        if train is not None and "text" in train.splitlines()[0].split(","):
            options = {"text_columns": "text", "label_column": "label", **options}
        return TextDataModule(**options)

    return make_datamodule


def write(folder, name, content):
    file = folder / name
    if name.endswith(".jsonl"):
        content = "".join(json.dumps(row) + "\n" for row in content)
    file.write_text(content)
    return str(file)


def table(rows, columns="text,label"):
    return columns + "\n" + "".join(",".join(map(str, row)) + "\n" for row in rows)


BINARY = table((text, "yes" if row % 4 else "no") for row, text in enumerate(NUMBERED))


def ids(loader):
    return torch.cat([batch["idx"] for batch in loader]).tolist()


def by_row(loader, name="labels"):
    return {int(row): each for batch in loader for row, each in zip(batch["idx"], batch[name].tolist(), strict=True)}


class Predictor(LightningModule):
    def __init__(self, model=MINILM):
        super().__init__()
        self.save_hyperparameters({"model": model}, logger=False)
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def training_step(self, batch, batch_idx):
        return self.weight * 1.0

    def validation_step(self, batch, batch_idx):
        return None

    def predict_step(self, batch, batch_idx):
        return batch["idx"]

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer(tmp_path, **options):
    return quiet_trainer(default_root_dir=tmp_path, **options)


def test_classes_from_a_csv_file(make):
    data = make(BINARY)
    assert (data.num_labels, data.label_names) == (2, ["no", "yes"])
    assert data.problem_type == "single_label_classification"
    assert data.metrics == ["accuracy", "macro_f1"]
    assert data.eval_set_names == [""]
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    assert set(batch) == {"input_ids", "attention_mask", "token_type_ids", "labels", "idx"}
    assert batch["labels"].dtype == torch.int64
    labels = by_row(data.train_dataloader()) | by_row(data.val_dataloader())
    assert labels == {row: int(bool(row % 4)) for row in range(40)}
    assert data.label_statistics.counts == [9, 27]
    assert data.label_statistics.rows == 36


def test_a_batch_holds_what_the_tokenizer_makes_of_the_texts(make, tmp_path):
    rows = [("NA", "a"), ("None", "b"), ("null", "a"), ("nan", "b"), ('"x ""y"", z"', "a"), ('"two\nlines"', "b")]
    file = write(tmp_path, "val.csv", table(rows))
    data = make(table(rows), val_file=file)
    data.setup("validate")
    (batch,) = data.val_dataloader()
    texts = ["NA", "None", "null", "nan", 'x "y", z', "two\nlines"]
    expected = data.tokenizer(texts, padding=True, return_tensors="pt")
    order = batch["idx"]
    for name in ("input_ids", "attention_mask", "token_type_ids"):
        assert torch.equal(batch[name], expected[name][order])
    assert batch["labels"].tolist() == [row % 2 for row in order.tolist()]


def test_each_model_gets_the_tokens_of_its_own_tokenizer(make, tmp_path):
    """As in a script that compares models on the same data, after a look at it."""
    tiny_tokenizer().save_pretrained(tmp_path / "tiny")
    data = make(BINARY, tokenizer=None, max_length=20)
    data.setup("fit")
    for name in (str(tmp_path / "tiny"), MINILM):
        trainer(tmp_path, max_steps=1).fit(Predictor(name), data)
        row = data.datasets["train/train"][0]
        assert row["input_ids"] == load_tokenizer(name)(NUMBERED[row["idx"]])["input_ids"]


def test_pairs_are_pairs(make, tmp_path):
    rows = [(f"claim {row}", f"proof {row} of it", row % 2) for row in range(6)]
    file = write(tmp_path, "pairs.csv", table(rows, "claim,proof,label"))
    data = make(train_file=file, val_file=file, text_columns=["claim", "proof"], label_column="label")
    data.setup("validate")
    (batch,) = data.val_dataloader()
    expected = data.tokenizer([row[0] for row in rows], [row[1] for row in rows], padding=True, return_tensors="pt")
    assert torch.equal(batch["input_ids"], expected["input_ids"][batch["idx"]])
    assert torch.equal(batch["token_type_ids"], expected["token_type_ids"][batch["idx"]])
    assert batch["token_type_ids"].max() == 1


def test_scores(make):
    data = make(table((text, row / 4) for row, text in enumerate(NUMBERED)))
    assert (data.num_labels, data.problem_type, data.label_names) == (1, "regression", [])
    assert data.metrics == ["pearson", "spearman"]
    data.setup("fit")
    labels = by_row(data.train_dataloader())
    assert all(labels[row] == row / 4 for row in labels)
    assert data.label_statistics.counts == []
    assert data.label_statistics.mean == pytest.approx(np.mean(list(labels.values())))
    assert data.label_statistics.std == pytest.approx(np.std(list(labels.values())))


def test_stars_are_classes_and_can_be_scores(make):
    train = table((text, row % 3 + 9) for row, text in enumerate(NUMBERED))
    assert make(train).label_names == ["9", "10", "11"]
    data = make(train, problem_type="regression")
    data.setup("fit")
    assert next(iter(data.train_dataloader()))["labels"].dtype == torch.float32
    assert make(train, problem_type="regression").num_labels == 1


def test_several_labels_per_text(make, tmp_path):
    rows = [{"text": text, "tags": ["b"] * (row % 2) + ["a"] * (row % 3 == 0)} for row, text in enumerate(NUMBERED)]
    data = make(train_file=write(tmp_path, "train.jsonl", rows), text_columns="text", label_column="tags")
    assert (data.problem_type, data.label_names) == ("multi_label_classification", ["a", "b"])
    assert data.metrics == ["micro_f1", "macro_f1", "average_precision"]
    data.setup("fit")
    found = by_row(data.train_dataloader()) | by_row(data.val_dataloader())
    assert found == {row: [float(row % 3 == 0), float(row % 2)] for row in range(40)}
    assert data.label_statistics.rows == 36
    assert data.label_statistics.counts == np.sum(list(by_row(data.train_dataloader()).values()), axis=0).tolist()


def test_columns_of_0_and_1(make):
    train = table(((text, row % 2, int(row % 3 == 0)) for row, text in enumerate(NUMBERED)), "text,odd,third")
    data = make(train, label_column=["odd", "third"])
    assert (data.problem_type, data.label_names) == ("multi_label_classification", ["odd", "third"])
    data.setup("fit")
    assert by_row(data.val_dataloader()).items() <= {row: [row % 2, row % 3 == 0] for row in range(40)}.items()


def test_the_metrics_can_be_chosen(make):
    assert make(BINARY, metrics=["matthews"]).metrics == ["matthews"]


# Columns


def test_columns_are_guessed_where_there_is_no_choice(make, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    numbers = table([("good one", 1), ("bad one", 2)] * 4, "review,stars")
    data = make(train_file=write(tmp_path, "stars.csv", numbers))
    assert data.label_names == ["1", "2"]
    assert "text: review (the only possible column); labels: stars (the only possible column)" in caplog.text
    assert "single_label_classification, from integers: 1, 2" in caplog.text
    words = table([("good one", "yes"), ("bad one", "no")] * 4, "review,liked")
    file = write(tmp_path, "words.csv", words)
    assert make(train_file=file, text_columns="review").label_names == ["no", "yes"]
    assert make(train_file=file, label_column="liked").label_names == ["no", "yes"]
    with pytest.raises(
        DataError, match=r"^text_columns and label_column: not named, and .*words\.csv leaves a choice; "
    ):
        _ = make(train_file=file).num_labels


def test_of_several_columns_text_and_label_are_taken_by_their_names(make, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    rows = [(row, f"title {row}", text, "yes" if row % 2 else "no") for row, text in enumerate(NUMBERED)]
    file = write(tmp_path, "wide.csv", table(rows, "id,title,text,label"))
    data = make(train_file=file, predict_file=write(tmp_path, "new.csv", table([("a", "b")], "title,text")))
    data.setup("fit")
    assert "text: text (by its name); labels: label (by its name); " in caplog.text
    assert data.hparams.text_columns == ["text"]
    data.setup("predict")
    (batch,) = data.predict_dataloader()
    assert data.tokenizer.decode(batch["input_ids"][0]) == "[CLS] b [SEP]"
    # Both are texts, and the whole file.
    words = write(tmp_path, "words.csv", table([("good one", "yes"), ("bad one", "no")] * 4))
    assert make(train_file=words).label_names == ["no", "yes"]
    # A text that is called so stays a label where it is named as one.
    data = make(train_file=file, text_columns="title", label_column="text")
    assert len(data.label_names) == 40


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"text_columns": "texts"}, r"text_columns: .* has no column 'texts'; its columns are text, other, label$"),
        (
            {"text_columns": "text, other"},
            r"no column 'text, other'; .*; of several columns give .* \[text,other\]$",
        ),
        ({"label_column": "stars"}, r"label_column: .* has no column 'stars'; its columns are text, other, label$"),
        (
            {"text_columns": ["text", "other", "label"]},
            r"text_columns: text, other, label; one or two different columns",
        ),
        ({"text_columns": "label"}, r"text_columns: 'label' is the label column, too$"),
    ],
)
def test_columns_that_are_missing_or_open(make, options, message):
    data = make(table([("a b", "c d", "x"), ("e f", "g h", "y")] * 4, "text,other,label"), **options)
    with pytest.raises(DataError, match=message):
        _ = data.num_labels


def test_a_column_that_is_not_named_and_has_no_usual_name_is_asked_for(make, tmp_path):
    file = write(tmp_path, "odd.csv", table([("a b", "c d", "x"), ("e f", "g h", "y")] * 4, "Text,other,labels"))
    for options, message in (
        ({"text_columns": "Text"}, r"^label_column: not named, and .*of the columns other, labels$"),
        ({"label_column": "labels"}, r"^text_columns: not named, and .* leaves a choice; .* columns Text, other$"),
    ):
        with pytest.raises(DataError, match=message):
            _ = make(train_file=file, **options).num_labels


def test_blanks_in_the_name_of_a_column_are_shown(make):
    data = make(table([("a b", "x"), ("c d", "y")] * 4, "text ,label"), text_columns="text")
    with pytest.raises(DataError, match=r"has no column 'text'; its columns are 'text ', label$"):
        _ = data.num_labels


def test_texts_under_names_of_our_own_columns(make, tmp_path):
    rows = [(text, row % 2) for row, text in enumerate(NUMBERED)]
    file = write(tmp_path, "odd.csv", table(rows, "label,idx"))
    data = make(train_file=file, text_columns="label", label_column="idx")
    data.setup("fit")
    labels = by_row(data.train_dataloader())
    assert all(labels[row] == row % 2 for row in labels)


# Splits


def test_the_same_rows_are_held_out_every_time(make):
    def held_out(**options):
        data = make(BINARY, **options)
        data.setup("fit")
        assert sorted(ids(data.train_dataloader()) + ids(data.val_dataloader())) == list(range(40))
        return sorted(ids(data.val_dataloader()))

    torch.manual_seed(1)
    first = held_out()
    torch.manual_seed(2)
    assert held_out() == first
    # 30 rows of one class and 10 of the other.
    assert [bool(row % 4) for row in first].count(True) == 3
    assert len(first) == 4
    assert held_out(split_seed=1) != first
    assert len(held_out(val_fraction=0.5)) == 20


def test_a_rare_class_stays_in_training(make):
    rows = [(text, "common") for text in NUMBERED] + [("only one", "rare")]
    data = make(table(rows), val_fraction=0.5)
    data.setup("fit")
    assert data.label_statistics.counts[1] == 1
    with pytest.raises(
        DataError, match=r"^none of the 2 training rows can be held out .*; give val_file, or more train"
    ):
        make(table([("a", "x"), ("b", "y")])).setup("fit")


def test_files_for_every_split(make, tmp_path):
    val = write(tmp_path, "val.csv", table([("v one", "no"), ("v two", "yes")]))
    test = write(tmp_path, "test.csv", table([("t one", "yes")]))
    data = make(BINARY, val_file=val, test_file=test)
    data.setup()
    assert len(ids(data.train_dataloader())) == 40
    assert by_row(data.val_dataloader()) == {0: 0, 1: 1}
    assert by_row(data.test_dataloader()) == {0: 1}
    with pytest.raises(DataError, match=r"^test_file: not given; the test rows are read from it$"):
        make(BINARY).setup("test")
    with pytest.raises(
        DataError, match=r"^train_file: not given; the train rows are read from it; without them a model"
    ):
        make(val_file=val).setup("fit")


def test_columns_beside_text_and_label_may_differ(make, tmp_path):
    """pandas writes its index as a first column without a name, unless it is told not to."""
    train = table([(row, text, row % 2) for row, text in enumerate(NUMBERED)], ",text,label")
    val = write(tmp_path, "val.csv", table([(1, "b"), (0, "a")], "label,text"))
    data = make(train, val_file=val, text_columns="text", label_column="label")
    data.setup("fit")
    assert by_row(data.val_dataloader()) == {0: 1, 1: 0}


def test_splits_of_a_saved_data_set(make, tmp_path):
    features = datasets.Features(text=datasets.Value("string"), label=datasets.ClassLabel(names=["yes", "no"]))
    rows = datasets.Dataset.from_dict({"text": NUMBERED, "label": [row % 2 for row in range(40)]}, features=features)
    datasets.DatasetDict(train=rows, test=rows.select(range(5))).save_to_disk(tmp_path / "saved")
    data = make(dataset=str(tmp_path / "saved"))
    assert data.label_names == ["yes", "no"]
    data.setup("fit")
    assert len(ids(data.train_dataloader())) == 36
    data.setup("test")
    assert by_row(data.test_dataloader()) == {row: row % 2 for row in range(5)}
    data.setup("predict")
    assert data.predict_rows["text"][:] == NUMBERED[:5]
    data = make(dataset=str(tmp_path / "saved"), val_split="test", test_split="none")
    data.setup("fit")
    assert len(ids(data.val_dataloader())) == 5
    with pytest.raises(DataError, match=r"^test_split: .*saved has no split 'none'; its splits are train, test$"):
        data.setup("test")
    # No rows are held out in place of a split that was named.
    with pytest.raises(DataError, match=r"^val_split: .*saved has no split 'dev'; its splits are train, test$"):
        make(dataset=str(tmp_path / "saved"), val_split="dev").setup("fit")


@pytest.mark.parametrize("columns", [{}, {"text_columns": "text", "label_column": "label"}])
def test_numbers_that_stand_for_names_are_no_scores(make, tmp_path, columns):
    features = datasets.Features(text=datasets.Value("string"), label=datasets.ClassLabel(names=["yes", "no"]))
    rows = datasets.Dataset.from_dict({"text": NUMBERED, "label": [0, 1] * 20}, features=features)
    rows.save_to_disk(tmp_path / "saved")
    data = make(dataset=str(tmp_path / "saved"), problem_type="regression", **columns)
    with pytest.raises(DataError, match=r"^problem_type=regression: the numbers in the label column 'label' stand for"):
        data.setup("fit")


def test_a_saved_data_set_is_read_whole_whatever_its_format(make, tmp_path):
    """As people save one for torch: its format hides the columns that no model takes."""
    rows = datasets.Dataset.from_dict({"text": ["one", "two"], "label": [0, 1], "number": [7, 8]})
    rows.with_format("torch", columns=["label"]).save_to_disk(tmp_path / "saved")
    task = {"text_columns": "text", "problem_type": "single_label_classification", "label_names": [0, 1]}
    data = make(dataset=str(tmp_path / "saved"), predict_split="train", **task)
    data.setup("predict")
    assert data.predict_rows[:] == {"text": ["one", "two"], "label": [0, 1], "number": [7, 8]}


def test_splits_that_datasets_would_hold_in_memory_are_not_mixed_up(make, tmp_path, monkeypatch):
    train, val = (
        datasets.Dataset.from_dict({"text": [f"{name} {row}" for row in range(rows)], "label": [0, 1] * (rows // 2)})
        for name, rows in (("train", 8), ("val", 4))
    )
    datasets.DatasetDict(train=train, validation=val).save_to_disk(tmp_path / "saved")
    monkeypatch.setattr(datasets.config, "IN_MEMORY_MAX_SIZE", 10**9)  # HF_DATASETS_IN_MEMORY_MAX_SIZE
    data = make(dataset=str(tmp_path / "saved"))
    data.setup("fit")
    assert [len(rows) for rows in data.datasets.values()] == [8, 4]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view()])
def test_parquet(make, tmp_path, kind):
    rows = pa.table({"text": pa.array(NUMBERED, kind), "label": pa.array(["b", "a"] * 20).dictionary_encode()})
    pa.parquet.write_table(rows, tmp_path / "rows.parquet")
    data = make(train_file=str(tmp_path / "rows.parquet"), text_columns="text")
    data.setup("fit")
    assert data.label_names == ["a", "b"]


@pytest.mark.parametrize("labels", [["b", "a"] * 20, [["b"], ["a", "b"]] * 20])
def test_files_of_which_some_keep_their_values_in_dictionaries_are_one_split(make, tmp_path, labels):
    """As pandas writes a column of categories, with larger numbers where there are more of them."""
    plain = pa.table({"text": NUMBERED, "label": labels})
    pa.parquet.write_table(plain, tmp_path / "0.parquet")
    for place, index in enumerate((pa.int8(), pa.int16()), start=1):
        kind = pa.dictionary(index, pa.string())
        kind = pa.list_(kind) if isinstance(labels[0], list) else kind
        parts = pa.table({"text": plain["text"].dictionary_encode(), "label": plain["label"].cast(kind)})
        pa.parquet.write_table(parts, tmp_path / f"{place}.parquet")
    data = make(train_file=str(tmp_path / "*.parquet"), predict_file=str(tmp_path / "*.parquet"), text_columns="text")
    data.setup("fit")
    assert data.label_names == ["a", "b"]
    assert data.label_statistics.rows == 108
    data.setup("predict")
    assert data.predict_rows[:] == {"text": NUMBERED * 3, "label": labels * 3}


@pytest.mark.parametrize(
    ("train", "val", "message"),
    [
        (
            BINARY,
            table([("a", "yes"), ("b", "maybe")]),
            r"val\.csv, row 2: label 'maybe' in column 'label' is none of th",
        ),
        (
            BINARY,
            table([("a", 1)], "text,id"),
            r"label_column: .*val\.csv has no column 'label'; its columns are text, id$",
        ),
        (BINARY, "text,label\n", r"val\.csv has no rows$"),
        (BINARY, table([("a", "yes"), ("", "no")]), r"val\.csv, row 2: the text in column 'text' is empty; drop_empty"),
        (
            BINARY,
            table([("a", "yes"), (" \u200b\ufeff\u3000", "no")]),
            r"val\.csv, row 2: the text in column 'text' is empty; drop_empty",
        ),
        ("text,label\n", BINARY, r"train\.csv has no rows with a text and a label$"),
        (table([("a", "x"), ("b", "x")]), BINARY, r"has one class only, 'x'; at least two are needed$"),
        (
            table([("a", "x"), ("b", "")]),
            BINARY,
            r"train\.csv, row 2: the label in column 'label' is missing; write one, or drop_",
        ),
        (
            table([("a", "x")] + [("b", "")] * 6),
            BINARY,
            r"train\.csv, row 2, 3, 4, 5, 6, \.\.\.: the label in column 'label' is missing \(6 rows\); write one, or ",
        ),
        (
            BINARY,
            table([("a", "yes"), ("b", ""), ("c", "no"), ("d", "")]),
            r"val\.csv, row 2, 4: the label in column 'label' is missing \(2 rows\); write one, or drop_empty leaves",
        ),
        (
            table([("a", "x"), ("  ", "y")]),
            BINARY,
            r"train\.csv, row 2: the text in column 'text' is empty; drop_empty",
        ),
    ],
)
def test_files_that_are_refused(make, tmp_path, train, val, message):
    data = make(train, val_file=write(tmp_path, "val.csv", val))
    with pytest.raises(DataError, match=message) as caught:
        data.setup("fit")
    assert "\n" not in str(caught.value)
    # Nothing of it is found in the cache the next time.
    with pytest.raises(DataError, match=message):
        data.setup("fit")


def test_rows_without_a_text_are_dropped(make):
    rows = [(text, row % 2) for row, text in enumerate(NUMBERED)]
    rows[3], rows[5] = ("", ""), ("  ", 7)
    data = make(table(rows), drop_empty=True)
    assert data.label_names == ["0", "1"]
    data.setup("fit")
    assert sorted(ids(data.train_dataloader()) + ids(data.val_dataloader())) == [*range(3), 4, *range(6, 40)]
    with pytest.raises(DataError, match=r"train\.csv has no rows with a text and a label$"):
        make(
            table([("", "a"), ("", "b")]),
            drop_empty=True,
            label_names=["a", "b"],
            problem_type="single_label_classification",
        ).setup("fit")


def test_rows_without_a_label_are_dropped_where_labels_are_read(make, tmp_path):
    rows = [(text, row % 2) for row, text in enumerate(NUMBERED)]
    rows[3], rows[5], rows[7] = (NUMBERED[3], ""), ("", ""), (NUMBERED[7], " ")
    file = write(tmp_path, "some.csv", table(rows))
    data = make(table(rows), test_file=file, predict_file=file, drop_empty=True)
    data.setup()
    labelled = [row for row in range(40) if row not in (3, 5, 7)]
    assert sorted(ids(data.train_dataloader()) + ids(data.val_dataloader())) == labelled
    assert by_row(data.test_dataloader()) == {row: row % 2 for row in labelled}
    assert sorted(ids(data.predict_dataloader())) == [row for row in range(40) if row != 5]

    columns = table([(text, 1, "" if row == 2 else 0) for row, text in enumerate(NUMBERED)], "text,glad,sad")
    data = make(columns, label_column=["glad", "sad"], drop_empty=True)
    data.setup("fit")
    assert sorted(ids(data.train_dataloader()) + ids(data.val_dataloader())) == [0, 1, *range(3, 40)]
    gaps = {4: None, 6: float("nan")}
    rows = [{"text": text, "score": gaps.get(row, row + 0.5)} for row, text in enumerate(NUMBERED)]
    data = make(train_file=write(tmp_path, "scores.jsonl", rows), label_column="score", drop_empty=True)
    data.setup("fit")
    assert sorted(ids(data.train_dataloader()) + ids(data.val_dataloader())) == [*range(4), 5, *range(7, 40)]
    with pytest.raises(DataError, match=r"'sad' is missing; allowed are 0 and 1, and drop_empty leaves such rows out$"):
        make(columns, label_column=["glad", "sad"]).setup("fit")


# Predict


def test_rows_to_predict_keep_their_columns_and_order(make, tmp_path):
    content = table([(7, '"long, long text"', "NA"), (8, "b", ""), (8, "b", "x")], "id,text,note")
    data = make(BINARY, predict_file=write(tmp_path, "new.csv", content), eval_batch_size=2)
    data.setup("predict")
    assert data.predict_rows[:] == {
        "id": ["7", "8", "8"],
        "text": ["long, long text", "b", "b"],
        "note": ["NA", "", "x"],
    }
    batches = list(data.predict_dataloader())
    assert all("labels" not in batch for batch in batches)
    assert torch.cat([batch["idx"] for batch in batches]).tolist() == [0, 1, 2]


MIXED = [7, "seven", None, [7, "x"], {"a": 7, "b": None}, True, 0.5, 2**70]


def test_a_column_of_several_kinds_that_is_not_used_is_nobodys_business(make, tmp_path):
    rows = [{"text": text, "label": row % 2, "meta": MIXED[row % 8]} for row, text in enumerate(NUMBERED)]
    file = write(tmp_path, "rows.jsonl", rows)
    data = make(train_file=file, test_file=file, predict_file=file)
    data.setup()
    assert by_row(data.train_dataloader()) | by_row(data.val_dataloader()) == {row: row % 2 for row in range(40)}
    assert data.predict_rows[:] == {name: [row[name] for row in rows] for name in ("text", "label", "meta")}
    assert data.predict_rows[2:5]["meta"] == MIXED[2:5]
    with pytest.raises(DataError, match=r"rows\.jsonl, line 2: the column 'meta' holds a text, and a number in line 1"):
        make(train_file=file, label_column="meta").setup("fit")


def test_a_column_of_a_kind_that_datasets_lacks_stands_beside_predictions(make, tmp_path):
    counts = pa.array([[("a", 1)], None], pa.map_(pa.string(), pa.int64()))  # as Spark writes them
    pa.parquet.write_table(pa.table({"text": ["a", "b"], "counts": counts}), tmp_path / "new.parquet")
    task = {"text_columns": "text", "problem_type": "single_label_classification", "label_names": ["no", "yes"]}
    data = make(predict_file=str(tmp_path / "new.parquet"), **task)
    data.setup("predict")
    assert data.predict_rows[:] == {"text": ["a", "b"], "counts": [[["a", 1]], None]}


def test_predict_needs_no_labels_and_no_training_rows(make, tmp_path):
    file = write(tmp_path, "new.jsonl", [{"text": "a", "extra": [1]}, {"text": "b", "extra": None}])
    data = make(predict_file=file, text_columns="text")
    data.setup("predict")
    assert data.predict_rows["extra"][:] == [[1], None]
    assert trainer(tmp_path).predict(Predictor(), data)[0].tolist() == [0, 1]
    with pytest.raises(DataError, match=r"^predict_file: not given; the predict rows are read from it$"):
        make(BINARY).setup("predict")


@pytest.mark.parametrize("columns", [{}, {"label_column": "label"}, {"text_columns": "text"}])
def test_without_training_rows_columns_are_those_of_the_rows_at_hand(make, tmp_path, columns):
    task = {"problem_type": "single_label_classification", "label_names": ["no", "yes"], **columns}
    rows = write(tmp_path, "rows.csv", table([("one", "yes"), ("two", "no")]))
    data = make(test_file=rows, val_file=rows, **task)
    for stage, loader in ("test", data.test_dataloader), ("validate", data.val_dataloader):
        data.setup(stage)
        assert by_row(loader()) == {0: 1, 1: 0}
    with pytest.raises(DataError, match=r"^test_file: not given; the test rows are read from it$"):
        make(val_file=rows, **task).setup("test")


# What is kept


def test_a_checkpoint_keeps_names_and_columns(make, tmp_path):
    run = trainer(tmp_path, max_epochs=1)
    data = make(BINARY)
    run.fit(Predictor(), data)
    run.save_checkpoint(tmp_path / "last.ckpt")
    # The training file now has labels of another order, and one more.
    write(tmp_path, "train.csv", table((text, ["a", "no", "yes"][row % 3]) for row, text in enumerate(NUMBERED)))
    again = TextDataModule.load_from_checkpoint(tmp_path / "last.ckpt")
    assert (again.label_names, again.problem_type) == (["no", "yes"], "single_label_classification")
    with pytest.raises(DataError, match=r"label 'a' in column 'label' is none of the training labels no, yes$"):
        again.setup("fit")
    (tmp_path / "train.csv").unlink()
    new = write(tmp_path, "new.csv", "text\nhello\n")
    again = TextDataModule.load_from_checkpoint(tmp_path / "last.ckpt", train_file=None, predict_file=new)
    assert again.num_labels == 2
    again.setup("predict")
    assert len(again.predict_rows) == 1


def test_a_file_that_changed_is_read_anew(make, tmp_path):
    data = make(BINARY)
    data.setup("fit")
    times = (tmp_path / "train.csv").stat()
    changed = BINARY.replace("number", "nimble").replace("yes", "yep")
    data = make(changed)
    os.utime(tmp_path / "train.csv", ns=(times.st_atime_ns, times.st_mtime_ns))
    assert data.label_names == ["no", "yep"]
    data.setup("fit")
    token = data.tokenizer("nimble")["input_ids"][1]
    assert all((batch["input_ids"] == token).any(dim=1).all() for batch in data.train_dataloader())


def test_a_second_start_reads_only_the_fingerprint(make, tmp_path, monkeypatch):
    def labels():
        data = make(BINARY)
        data.setup("fit")
        return data.label_names, by_row(data.train_dataloader())

    first = labels()

    def refuse(*arguments):
        raise AssertionError("the file is read again")

    monkeypatch.setattr("datamodules.sources.file_source.FileSource._csv_tables", refuse)
    assert labels() == first


# What is said


def test_what_is_said_about_the_splits(make, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    rows = [(text, "yes" if row % 4 else "no") for row, text in enumerate(NUMBERED)]
    rows[0] = ("word " * 20, "no")
    test = write(tmp_path, "test.csv", table([(NUMBERED[7], "no"), ("new", "yes")]))
    data = make(table(rows), test_file=test, max_length=10, val_file=write(tmp_path, "val.csv", table([("v", "no")])))
    duplicates = pytest.warns(UserWarning, match=r"^1 of 2 test rows have exactly the text of a train row$")
    unseen = r"^1 of 2 labels are in no validation row, so that its scores do not cover them: yes$"
    with duplicates, pytest.warns(UserWarning, match=unseen):
        data.setup("fit")
    said = caplog.text
    assert "rows: train 40, validation 1, test 2" in said
    assert "label       train  validation        test" in said
    assert "no             10           1           1" in said
    assert "yes            30           0           1" in said
    assert "train: 1 of 40 texts are longer than 10 tokens and are cut; 12 tokens (5.5 percent) are lost\n" in said
    assert "validation: no text is longer than 10 tokens" in said


def test_labels_with_line_breaks_are_said_in_one_line(make, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    rows = [{"text": text, "label": ["a\nb", "c"][row % 2]} for row, text in enumerate(NUMBERED)]
    make(train_file=write(tmp_path, "rows.jsonl", rows)).setup("fit")
    assert "from texts: a b, c\n" in caplog.text
    assert "\na b            18           2\n" in caplog.text


def test_that_rows_are_held_out_is_said(make, caplog):
    caplog.set_level(logging.INFO)
    make(BINARY).setup("fit")
    assert "rows: train 36, validation 4 (held out of the training rows)" in caplog.text


def test_integer_labels_are_named_by_integers(make):
    data = make(table((text, [1, 2, 10][row % 3]) for row, text in enumerate(NUMBERED)), label_names=[10, 2, 1])
    data.setup("fit")
    assert data.label_names == data.hparams["label_names"] == ["10", "2", "1"]
    assert sorted(set(data.datasets["train/train"]["label"])) == [0, 1, 2]


# Long texts


def test_windows(make, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    rows = [("word " * (row + 1), row % 2) for row in range(20)]
    file = write(tmp_path, "val.csv", table(rows))
    data = make(table(rows), val_file=file, long_texts="windows", max_length=8, window_overlap=2, max_windows=3)
    data.setup("fit")
    (batch,) = data.val_dataloader()
    windows = torch.bincount(batch["text"])
    assert batch["labels"].shape == batch["idx"].shape == windows.shape == (20,)
    assert batch["input_ids"].shape == (int(windows.sum()), 8)
    lengths = {row: min(3, 1 + max(0, -(-(row + 1 - 6) // 4))) for row in range(20)}
    assert dict(zip(batch["idx"].tolist(), windows.tolist(), strict=True)) == lengths
    assert "val" in caplog.text
    assert "6 of 20 texts are longer than 3 windows of 8 tokens and are cut; 21 tokens" in caplog.text
    data = make(table(rows), val_file=file, long_texts="windows", max_length=4, window_overlap=0, max_windows=1)
    data.setup("fit")
    assert "percent) are lost; a larger max_windows or a larger max_length keeps more" in caplog.text
    cut = make(table(rows), max_length=4)
    cut.setup("fit")
    assert "percent) are lost; a larger max_length or long_texts=windows keeps more" in caplog.text
    grouped = make(table(rows), long_texts="windows", max_length=8, window_overlap=2, group_by_length=True)
    grouped.setup("fit")
    assert len(ids(grouped.train_dataloader())) == 18


def test_only_what_can_be_done_about_cut_texts_is_advised(make, caplog):
    caplog.set_level(logging.INFO)
    long = "word " * 20
    pairs = table(((long, long, row % 2) for row in range(20)), "one,two,label")
    data = make(pairs, text_columns=["one", "two"], max_length=5)
    data.setup("fit")
    assert "percent) are lost; a larger max_length keeps more" in caplog.text
    caplog.clear()
    data = make(pairs, text_columns=["one", "two"], max_length=6)
    data.tokenizer.model_max_length = 6
    data.setup("fit")
    assert "percent) are lost\n" in caplog.text
    assert "keeps more" not in caplog.text
    one = make(table((long, row % 2) for row in range(20)), max_length=6)
    one.tokenizer.model_max_length = 6
    one.setup("fit")
    assert "percent) are lost; long_texts=windows keeps more" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"val_fraction": 0.0}, r"val_fraction 0.0 is out of range: between 0 and 1"),
        ({"split_seed": -1}, r"split_seed -1 is out of range: at least 0"),
        ({"max_windows": 0}, r"max_windows 0 is out of range: at least 1"),
        ({"window_overlap": -1}, r"window_overlap -1 is out of range: at least 0"),
        ({"max_length": 0}, r"max_length 0 is out of range: at least 1"),
        (
            {"problem_type": "classes"},
            r"problem_type 'classes' is not allowed; one of single_label_classification, mul",
        ),
        ({"quoting": "all"}, r"quoting 'all' is not allowed; one of minimal, none"),
        ({"long_texts": "cut"}, r"long_texts 'cut' is not allowed; one of truncate, windows"),
        ({"delimiter": ",,"}, r"delimiter ',,' is not allowed; one ASCII character"),
        (
            {"dataset": "a/b", "val_file": "x.csv"},
            r"dataset: val_file is given, too; rows are of a data set or of files",
        ),
        (
            {"dataset": datasets.DatasetDict()},
            r"dataset: a DatasetDict is given; its name on the hub is needed, or the folder that its save_to_disk",
        ),
        (
            {"train_file": datasets.Dataset.from_dict({"text": ["a"]})},
            r"train_file: a Dataset is given; paths of files are needed, or glob patterns; write rows in memory to",
        ),
        ({"tokenizer": tiny_tokenizer()}, r"tokenizer: a .*Tokenizer.* is given; its name on the hub is needed"),
        ({"val_file": pd.DataFrame({"text": ["a"]})}, r"val_file: a DataFrame is given; paths of files are needed"),
        ({"predict_file": [{"text": "a"}]}, r"predict_file: a dict is given in a list; paths of files are needed"),
        ({"label_names": ["a", "a"]}, r"label_names: a name is given twice"),
        ({"label_names": ["1", 1]}, r"label_names: a name is given twice"),
        ({"label_names": [False, True]}, r"label_names: False is neither a text nor an integer"),
    ],
)
def test_options_that_are_refused(options, message):
    with pytest.raises(DataError, match=rf"^{message}"):
        TextDataModule(**options)
