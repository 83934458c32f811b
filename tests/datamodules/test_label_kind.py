"""The kind of a task from its labels, and labels as batches need them."""

from __future__ import annotations

import pyarrow as pa
import pytest

from datamodules import DataError
from datamodules.labels.label_encoding import encode_labels
from datamodules.labels.label_kind import find_kind
from datamodules.sources.text_source import Part


def part(**columns):
    return Part(pa.table(columns), "rows.csv", 1)


def kind_of(labels, **options):
    return find_kind([part(label=labels)], ["label"], **options)


@pytest.mark.parametrize(
    ("labels", "problem_type", "names"),
    [
        (["pos", "neg", "pos"], "single_label_classification", ("neg", "pos")),
        (["10", "9", "-1"], "single_label_classification", ("-1", "9", "10")),
        ([" 10", " 9"], "single_label_classification", (" 9", " 10")),
        ([10, 9, 9], "single_label_classification", ("9", "10")),
        ([2**60 + 1, 2**60, 9], "single_label_classification", ("9", str(2**60), str(2**60 + 1))),
        ([True, False], "single_label_classification", ("False", "True")),
        (["NA", "None", "good"], "single_label_classification", ("NA", "None", "good")),
        (["1.5", "2", "-3e-2"], "regression", ()),
        ([1.0, 2.0], "regression", ()),
        ([["b", "a"], [], ["c"]], "multi_label_classification", ("a", "b", "c")),
        ([[10, 9], [9]], "multi_label_classification", ("9", "10")),
    ],
)
def test_the_kind_follows_the_labels(labels, problem_type, names):
    kind = kind_of(labels)
    assert (kind.problem_type, kind.label_names) == (problem_type, names)
    assert kind.num_labels == (len(names) or 1)


def test_the_kind_can_be_overridden():
    assert kind_of([1, 2, 3], problem_type="regression").problem_type == "regression"
    assert kind_of(["1", "2"], problem_type="regression").num_labels == 1
    kind = kind_of([1.0, 2.5, 1.0], problem_type="single_label_classification")
    assert kind.label_names == ("1", "2.5")
    assert kind_of(["a", "b"], label_names=["b", "a"]).label_names == ("b", "a")


def test_whole_floats_may_be_classes():
    """pandas makes floats of integers in a column with gaps, and writes 1.0 for 1."""
    for labels in (["0.0", "1.0", "2.0"], [0.0, 1.0, 2.0]):
        kind = kind_of(labels)
        assert kind.problem_type == "regression"
        assert kind.found_from == "whole floats (problem_type=single_label_classification takes them as 3 classes)"
    assert kind_of(["0.0", "1.5"]).found_from == "floats"
    assert kind_of([float(score) for score in range(30)]).found_from == "floats"


def test_lists_that_are_written_as_texts():
    """DataFrame.to_csv writes a list as a text."""
    for labels in (["['a', 'b']", "[]", "['b']"], ['["a"]', '["b"]'], ["[1, 0]", "[0, 1]"]):
        with pytest.raises(DataError, match=r"'label' holds lists that are written as texts, such as .*JSON lines"):
            kind_of(labels)
        assert kind_of(labels, problem_type="single_label_classification").num_labels == len(labels)
    assert kind_of(["[urgent]", "[spam]"]).label_names == ("[spam]", "[urgent]")
    assert kind_of(["[]", "other"]).num_labels == 2


def test_vectors_of_0_and_1_are_no_lists_of_names():
    """As Hugging Face's Trainer takes them; each text would have the labels 0 and 1."""
    for labels in ([[0, 1, 1], [1, 0, 0]], [[0.0, 1.0], [1.0, 0.0]], [["0", "1"], ["1", "0"]]):
        with pytest.raises(DataError, match=r"'label' holds lists of 0 and 1, .*: of vectors make several columns"):
            kind_of(labels)
    assert kind_of([[0, 1], [1]], problem_type="multi_label_classification").label_names == ("0", "1")
    assert kind_of([[0, 1], [1]], names_of_numbers=["dull", "long"]).label_names == ("dull", "long")
    assert kind_of([[0, 1], [2]]).label_names == ("0", "1", "2")


def test_vectors_of_probabilities_are_no_lists_of_names():
    """Each probability would be a label of its own."""
    with pytest.raises(DataError, match=r"'label' holds lists of numbers such as 0\.1, and a list has the names"):
        kind_of([[0.1, 0.9], [1.0, 0.0]])
    assert kind_of([[1.5], [2]], problem_type="multi_label_classification").label_names == ("1.5", "2")
    assert kind_of([["3.1"], ["3.2", "3.1"]]).label_names == ("3.1", "3.2")


def test_two_ways_to_write_one_label_are_told():
    one_class = {"problem_type": "single_label_classification"}
    for labels, options, message in (
        (["bad", "good", "good "], {}, "'good' and 'good ' differ in spaces alone"),
        ([["bad"], ["good", " good"]], {}, "' good' and 'good' differ in spaces alone"),
        (["caf\u00e9", "cafe\u0301", "tea"], {}, r"'cafe\\u0301' and 'caf\\xe9' look the same"),
        (["tea", "\ufefftea", "milk"], {}, r"'tea' and '\\ufefftea' look the same"),
        (["1", "0", "1.0"], one_class, r"'1' and '1\.0' are one number"),
        (["1", "0", " 1"], {}, "' 1' and '1' are one number"),
    ):
        with pytest.raises(DataError, match=rf"^the label column 'label': {message}; write them alike"):
            kind_of(labels, **options)
    assert kind_of(["good", "good "], label_names=["good", "good "]).num_labels == 2
    assert kind_of(["1", "2", "1.0", "0.5"]).problem_type == "regression"


def test_labels_that_differ_in_what_is_seen_are_two():
    flags = ["\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f", "\U0001f3f4"]
    with_joiner = ["\u0645\u06cc\u200c\u062e\u0648\u0631\u0645", "\u0645\u06cc\u062e\u0648\u0631\u0645"]
    for labels in (flags, with_joiner, ["yes", "Yes"], ["\uff11a", "1a"]):
        assert kind_of(labels).num_labels == 2


def test_a_label_that_looks_like_one_of_training_is_told_apart():
    kind = kind_of(["caf\u00e9", "tea"])
    with pytest.raises(DataError, match=r"row 1: label 'cafe\\u0301' in .* is none of .*; it looks like 'caf\\xe9'$"):
        encode_labels(part(label=["cafe\u0301"]), ["label"], kind)
    with pytest.raises(
        DataError, match=r"label 'milk' in column 'label' is none of the training labels caf\u00e9, tea$"
    ):
        encode_labels(part(label=["milk"]), ["label"], kind)


def test_numbers_with_names_keep_the_order_of_the_names():
    kind = kind_of([1, 0], names_of_numbers=["yes", "no", "maybe"])
    assert kind.label_names == ("yes", "no", "maybe")
    ids = encode_labels(part(label=[2, 0]), ["label"], kind, ["maybe", "no", "yes"])
    assert ids.to_pylist() == [0, 2]


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        (["a", "a"], {}, r"label column 'label' of the training split has one class only, 'a'; at least two"),
        ([["a"], []], {}, r"label column 'label' of the training split has 1 label; at least two are needed"),
        (["a", "", "b"], {}, r"rows.csv, row 2: the label in column 'label' is missing"),
        (["a", None], {}, r"rows.csv, row 2: the label in column 'label' is missing"),
        ([["a"], None, ["b"]], {}, r"rows.csv, row 2: the label in column 'label' is missing"),
        (["1.5", "2.5", "nan"], {}, r"rows.csv, row 3: label 'nan' in column 'label' is not a finite number"),
        (["1", "NA", "2"], {}, r"rows.csv, row 2: label 'NA' in column 'label' is not a finite number"),
        ([1.5, float("inf")], {}, r"rows.csv, row 2: label 'inf' in column 'label' is not a finite number"),
        ([1.5, float("nan")], {}, r"rows.csv, row 2: the label in column 'label' is missing"),
        ([0, -1], {"names_of_numbers": ["a", "b"]}, r"rows.csv, row 2: the label in column 'label' is missing"),
        ([{"a": 1}], {}, r"rows.csv: the label column 'label' holds struct<a: int64>; labels are"),
        (["a", "b"], {"problem_type": "regression"}, r"rows.csv, row 1: label 'a' in column 'label' is not a number"),
        (
            [0, 1],
            {"problem_type": "regression", "names_of_numbers": ["1", "2"]},
            r"^problem_type=regression: the numbers in the label column 'label' stand for names, as '1'; scores",
        ),
        (["a", "b"], {"problem_type": "multi_label_classification"}, r"problem_type=multi_label_classification: the l"),
        ([["a"], ["b"]], {"problem_type": "single_label_classification"}, r"problem_type=single_label_classification"),
        ([], {}, r"the training split has no rows with a text and a label$"),
    ],
)
def test_labels_that_are_refused(labels, options, message):
    with pytest.raises(DataError, match=message):
        kind_of(labels, **options)


def test_a_column_that_holds_no_classes(monkeypatch):
    monkeypatch.setattr("datamodules.labels.label_kind.MAX_LABELS", 3)
    with pytest.raises(DataError, match=r"has more than 3 different labels; is it the right column\?$"):
        kind_of(["a", "b", "c", "d", "e"])
    assert kind_of(["1", "2", "3", "4", "5", "6.5"]).problem_type == "regression"


def test_ids_follow_the_names():
    kind = kind_of(["neg", "pos"])
    assert encode_labels(part(label=["pos", "neg", "pos"]), ["label"], kind).to_pylist() == [1, 0, 1]
    kind = kind_of([["a", "b"], ["c"]])
    assert encode_labels(part(label=[["c", "a"], [], ["b"]]), ["label"], kind).to_pylist() == [[2, 0], [], [1]]
    repeated = part(label=[["c", "a", "c"], [], ["b", "b"]])
    assert encode_labels(repeated, ["label"], kind).to_pylist() == [[2, 0], [], [1]]
    scores = encode_labels(part(label=["1.5", "-2"]), ["label"], kind_of(["1.5", "2"]))
    assert scores.to_pylist() == [1.5, -2.0]
    nanoseconds = part(label=[2**60 + 1])
    assert encode_labels(nanoseconds, ["label"], kind_of([1.5, 2.0])).to_pylist() == [2.0**60]
    assert scores.type == pa.float32()


def test_columns_of_0_and_1():
    columns = {"angry": ["1", "0", "0"], "glad": [1.0, 0.0, 1.0], "sad": [False, False, True]}
    kind = find_kind([part(**columns)], list(columns))
    assert (kind.problem_type, kind.label_names) == ("multi_label_classification", ("angry", "glad", "sad"))
    assert encode_labels(part(**columns), list(columns), kind).to_pylist() == [[0, 1], [], [1, 2]]
    given = encode_labels(part(**columns), ["sad", "angry", "glad"], kind)
    assert given.to_pylist() == [[0, 1], [], [1, 2]]
    with pytest.raises(DataError, match=r"^label_column: the columns angry, dull are not the labels, which are angry,"):
        encode_labels(part(angry=["1"], dull=["1"]), ["angry", "dull"], kind)
    two = find_kind([part(**columns)], ["angry", "glad"])
    for cell, said in (("2", "is '2'"), ("", "is missing"), (None, "is missing")):
        with pytest.raises(
            DataError, match=rf"rows.csv, row 2: the label in column 'glad' {said}; allowed are 0 and 1"
        ):
            encode_labels(part(angry=["1", "0"], glad=["1", cell]), ["angry", "glad"], two)
    with pytest.raises(DataError, match=r"^problem_type=regression has one label column; several are given$"):
        find_kind([part(**columns)], list(columns), problem_type="regression")


@pytest.mark.parametrize(
    ("trained", "labels", "message"),
    [
        (["a", "b"], ["a", "c"], r"rows.csv, row 2: label 'c' in column 'label' is none of the training labels a, b"),
        (["a", "b"], ["a", ""], r"rows.csv, row 2: the label in column 'label' is missing"),
        ([["a"], ["b"]], [["a", "b"], ["d"]], r"rows.csv, row 2: label 'd' in column 'label' is none of the training"),
        ([1.5, 2.5], ["1", "one"], r"rows.csv, row 2: label 'one' in column 'label' is not a finite number"),
        ([1.5, 2.5], [1.0, 1e300], r"rows.csv, row 2: label 1e\+300 in column 'label' is not a finite number"),
        (["a", "b"], [["a"]], r"rows.csv, row 1: the label column 'label' holds list<.*>, unlike the training split's"),
    ],
)
def test_labels_of_another_split_that_are_refused(trained, labels, message):
    with pytest.raises(DataError, match=message):
        encode_labels(part(label=labels), ["label"], kind_of(trained))
