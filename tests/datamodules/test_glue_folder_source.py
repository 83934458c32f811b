from __future__ import annotations

import csv
import logging

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules import TASKS, DataError
from datamodules.glue.glue_folder_source import MAX_MALFORMED_ROWS, FolderSource
from tests.glue_files import DIAGNOSTIC_FULL, FILES, write_glue_folder


@pytest.fixture
def glue(tmp_path):
    return write_glue_folder(tmp_path / "glue")


def read(glue, task, split):
    return FolderSource(TASKS[task], str(glue)).read(split)


# What each file of the layout says, read by a person.
EXPECTED = {
    ("cola", "train"): ["The sailors rode the breeze.", 'The "more does Bill smoke.', "He left."],
    ("cola", "validation"): ["The weights made the rope stretch.", "The more you would want."],
    ("cola", "test"): ["Bill whistled past the house.", "The car honked its way down."],
    ("sst2", "train"): ["hide new secretions ", 'a "fine film ', "café \u2028 noir\x0c"],
    ("sst2", "test"): ["uneasy mishmash .", "this film", "fun"],
    ("mrpc", "train"): [('He said , " no " .', '" No , he said .'), ("They bought it .", "They sold it .")],
    ("mrpc", "test"): [("G h .", "H g .")],
    ("qqp", "train"): [("How is life?", "What is life like?"), ("Why?", "Why not?")],
    ("qqp", "test"): [("Would it?", "Could it?"), ("When?", "Where?")],
    ("stsb", "test"): [("A plane.", 'An "air plane.')] * 3,
    ("mnli", "train"): [(f"Premise {row} train.tsv", f"Hypothesis {row}") for row in range(3)],
    ("mnli", "validation_mismatched"): [(f"Premise {row} dev_mismatched.tsv", f"Hypothesis {row}") for row in range(3)],
    ("mnli", "test_matched"): [(f"Premise {row} test_matched.tsv", f"Hypothesis {row}") for row in range(3)],
    ("qnli", "train"): [("When did it end?", "It ended in 1990."), ("Who won?", "It rained.")],
    ("rte", "train"): [("No weapons.", "Weapons."), ("A place of sorrow.", "Sorrow.")],
    ("wnli", "train"): [("I stuck a pin.", "The carrot had a hole."), ("John could not see.", "John is short.")],
    ("ax", "test"): [("The cat sat.", "The cat did not sit."), ("A b.", "B.")],
}


@pytest.mark.parametrize(("task", "split"), EXPECTED)
def test_texts_come_out_as_they_are_written(glue, task, split):
    rows = read(glue, task, split)
    columns = TASKS[task].text_columns
    texts = [tuple(row[column] for column in columns) for row in rows]
    assert (texts if len(columns) == 2 else [text for (text,) in texts]) == EXPECTED[task, split]


@pytest.mark.parametrize(
    ("task", "split", "labels"),
    [
        ("cola", "train", [1, 0, 1]),
        ("sst2", "train", [0, 1, 1]),
        ("mrpc", "train", [1, 0]),
        ("qqp", "train", [1, 0]),
        ("mnli", "train", [2, 0, 1]),
        ("mnli", "validation_matched", [2, 0, 1]),
        ("mnli", "validation_mismatched", [2, 0, 1]),
        ("qnli", "train", [0, 1]),
        ("rte", "train", [1, 0]),
        ("wnli", "train", [1, 0]),
    ],
)
def test_labels_are_in_the_hubs_order(glue, task, split, labels):
    assert list(read(glue, task, split)["label"]) == labels


def test_scores_are_numbers(glue):
    assert list(read(glue, "stsb", "train")["label"]) == pytest.approx([5.0, 3.8, 0.0])


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_test_files_have_no_labels(glue, task):
    source = FolderSource(task, str(glue))
    assert all("label" not in source.read(split).column_names for split in task.test_splits)


def test_a_test_file_with_a_label_column_is_read_with_it(glue):
    (glue / "SST-2" / "test.tsv").write_text("index\tsentence\tlabel\n0\tfine\t1\n")
    assert list(read(glue, "sst2", "test")["label"]) == [1]


def test_the_labelled_diagnostic_set_is_read_where_it_is_there(glue):
    (glue / "diagnostic" / "diagnostic-full.tsv").write_text(DIAGNOSTIC_FULL)
    rows = read(glue, "ax", "test")
    assert list(rows["label"]) == [2, 0]
    assert list(rows["premise"]) == ["The cat sat.", "A b."]


def test_data_dir_may_be_the_tasks_own_folder(glue):
    assert list(read(glue / "MRPC", "mrpc", "train")["label"]) == [1, 0]


@settings(max_examples=40)
@given(
    st.lists(
        st.tuples(
            st.text(st.characters(codec="utf-8", exclude_characters="\t\r\n\0"), min_size=1), st.sampled_from("01")
        ),
        min_size=1,
        max_size=8,
    )
)
def test_any_text_survives_as_csv_without_quoting_reads_it(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("any")
    path = folder / "train.tsv"
    path.write_text("sentence\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in rows), encoding="utf-8")
    with path.open(encoding="utf-8") as stream:
        expected = list(csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE))
    found = read(folder, "sst2", "train")
    assert list(found["sentence"]) == [row["sentence"] for row in expected]
    assert list(found["label"]) == [int(row["label"]) for row in expected]


def test_the_fingerprint_follows_the_content(glue):
    source = FolderSource(TASKS["sst2"], str(glue))
    before = source.fingerprint("train")
    assert before == FolderSource(TASKS["sst2"], str(glue / "SST-2")).fingerprint("train")
    assert before != source.fingerprint("validation")
    path = glue / "SST-2" / "train.tsv"
    path.write_bytes(path.read_bytes().replace(b"fine", b"good"))
    assert source.fingerprint("train") != before


def test_a_row_count_that_is_not_the_published_one_is_said(glue, caplog):
    with caplog.at_level(logging.WARNING):
        read(glue, "sst2", "train")
    assert "train.tsv has 3 rows; as published it has 67349" in caplog.text


TRAIN = "sentence\tlabel\ngood\t1\n"
BAD_FILES = {
    "empty": (b"", r"train\.tsv is empty$"),
    "blank": (b"\n \n", r"train\.tsv is empty$"),
    "header alone": (b"sentence\tlabel\n", r"train\.tsv has a header but no rows$"),
    "no such column": (
        b"text\tlabel\na\t1\n",
        r"train\.tsv, line 1: no column 'sentence'; the columns are 'text', 'label'$",
    ),
    "no label column": (b"index\tsentence\n0\ta\n", r"train\.tsv, line 1: no column 'label'; .* 'index', 'sentence'$"),
    "cut in a row": (TRAIN.encode() + b"ba", r"train\.tsv, line 3: 1 column where at least 2 are needed; .* cut short"),
    "cut after a tab": (TRAIN.encode() + b"bad\t", r"train\.tsv, line 3: label '' is not one of 0, 1$"),
    "blank inside": (TRAIN.encode() + b"\nbad\t0\n", r"train\.tsv, line 3: 1 column where"),
    "unknown label": (TRAIN.encode() + b"bad\t2\n", r"train\.tsv, line 3: label '2' is not one of 0, 1$"),
    "binary": (TRAIN.encode() + b"\x89PNG\0\0\t1\n", r"train\.tsv, line 3: binary data, not a TSV text$"),
    "not UTF-8": (TRAIN.encode() + b"caf\xe9\t1\n", r"train\.tsv, line 3: not UTF-8 text$"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_is_one_line_with_its_place(tmp_path, name):
    content, message = BAD_FILES[name]
    (tmp_path / "train.tsv").write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read(tmp_path, "sst2", "train")
    assert str(tmp_path / "train.tsv") in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", ["long line", "many columns", "long label"])
def test_a_message_stays_short_whatever_the_file_holds(tmp_path, damage):
    content = {
        "long line": "x" * 10**6 + "\na\n",
        "many columns": "x\t" * 10**5 + "\na\n",
        "long label": TRAIN + "a\t" + "x" * 10**6,
    }[damage]
    (tmp_path / "train.tsv").write_text(content)
    with pytest.raises(DataError) as caught:
        read(tmp_path, "sst2", "train")
    assert len(str(caught.value)) < 500


def test_a_label_word_that_is_not_in_the_table(glue):
    path = glue / "MNLI" / "dev_matched.tsv"
    path.write_text(path.read_text().replace("\tentailment\n", "\t-\n"))
    with pytest.raises(
        DataError, match=r"dev_matched\.tsv, line 3: label '-' is not one of entailment, neutral, contra"
    ):
        read(glue, "mnli", "validation_matched")


@pytest.mark.parametrize("score", ["5.1", "-0.1", "nan", "high", ""])
def test_a_score_out_of_range(glue, score):
    path = glue / "STS-B" / "dev.tsv"
    path.write_text(path.read_text().replace("3.800", score))
    with pytest.raises(DataError, match=rf"dev\.tsv, line 3: score '{score}' is not a number from 0 to 5"):
        read(glue, "stsb", "validation")


def test_a_handful_of_malformed_rows_of_qqp_is_left_out_but_not_more(tmp_path):
    header, good = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n", "1\t2\t3\tWho?\tWhom?\t1\n"
    path = tmp_path / "train.tsv"
    path.write_text(header + "broken\n" * MAX_MALFORMED_ROWS + good)
    assert len(read(tmp_path, "qqp", "train")) == 1
    path.write_text(header + "broken\n" * (MAX_MALFORMED_ROWS + 1) + good)
    with pytest.raises(DataError, match=rf"line {MAX_MALFORMED_ROWS + 2}: 1 column where at least 6"):
        read(tmp_path, "qqp", "train")
    path.write_text(header + good + "4\t5\t6\tHow")
    with pytest.raises(DataError, match="line 3: 4 columns where at least 6 are needed; the file is cut short"):
        read(tmp_path, "qqp", "train")


def test_test_rows_of_qqp_are_never_left_out(tmp_path):
    # A submission needs a prediction for every row.
    (tmp_path / "test.tsv").write_text("id\tquestion1\tquestion2\nbroken\n0\tWho?\tWhom?\n")
    with pytest.raises(DataError, match="line 2: 1 column"):
        read(tmp_path, "qqp", "test")


def test_a_missing_file_and_a_missing_folder(glue, tmp_path):
    (glue / "RTE" / "dev.tsv").unlink()
    with pytest.raises(DataError, match=r"RTE/dev\.tsv is missing; the validation split of rte is read from it"):
        read(glue, "rte", "validation")
    with pytest.raises(DataError, match=r"data_dir .*nowhere is not a folder"):
        read(tmp_path / "nowhere", "rte", "train")
    (tmp_path / "other").mkdir()
    with pytest.raises(
        DataError, match=r"other holds neither the folder RTE nor the files train\.tsv, dev\.tsv, test\.tsv"
    ):
        read(tmp_path / "other", "rte", "train")


def test_every_file_of_the_layout_is_covered():
    assert {task.folder for task in TASKS.values()} == set(FILES)


@pytest.mark.parametrize("task", ["mrpc", "cola", "qqp"])
def test_a_tab_within_a_text_is_refused_with_its_line(glue, task):
    path = glue / TASKS[task].folder / "dev.tsv"
    first, second, *rest = path.read_text().split("\n")
    path.write_text("\n".join([first, f"{second}\tand more", *rest]))
    columns = second.count("\t") + 2
    with pytest.raises(
        DataError, match=rf"dev.tsv, line 2: {columns} columns where the heading has {columns - 1}; a tab"
    ):
        read(glue, task, "validation")
