"""Files as people write them: texts stay literal, and errors name file and row."""

from __future__ import annotations

import csv
import io
import json
import os

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datamodules import DataError
from datamodules.sources.dataset_source import load_splits
from datamodules.sources.file_source import FileSource
from datamodules.texts.column_choice import choose_label_columns, choose_text_columns
from datamodules.texts.usable_rows import usable_rows

LITERALS = ["NA", "None", "null", "nan", "N/A", "#N/A", "-inf", "1e5", "007", "true", "2020-01-01", " padded ", "\\N"]


def read(source, columns=None):
    tables = [part.table for part in source.parts(columns)]
    return pa.concat_tables(tables).to_pylist() if tables else []


def write(folder, name, content):
    file = folder / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(file)


def read_text(folder, content, name="rows.csv", **options):
    return read(FileSource(write(folder, name, content), "train_file", **options))


def test_words_that_elsewhere_mean_a_gap_are_texts(tmp_path):
    rows = "".join(f"{text},{text}\n" for text in LITERALS)
    assert read_text(tmp_path, f"text,label\n{rows}") == [{"text": text, "label": text} for text in LITERALS]


def test_quotes_delimiters_and_line_breaks_within_quotes(tmp_path):
    content = 'text,label\r\n"a ""b"", c",1\r\n"two\r\nlines\nand\rmore",2\r\n5" disk,3\r\n\r\n"",4\r\n'
    assert [row["text"] for row in read_text(tmp_path, content)] == [
        'a "b", c',
        "two\r\nlines\nand\rmore",
        '5" disk',
        "",
    ]


def test_tabs_within_quotes_and_other_delimiters(tmp_path):
    assert read_text(tmp_path, 'text\tlabel\n"a\tb"\t1\n', "rows.tsv") == [{"text": "a\tb", "label": "1"}]
    assert read_text(tmp_path, "text;label\na,b;1\n", delimiter=";") == [{"text": "a,b", "label": "1"}]


def test_quotes_are_characters_without_quoting(tmp_path):
    content = 'text\tlabel\n"open\t1\n""\t2\n'
    rows = read_text(tmp_path, content, "rows.tsv", quoting="none")
    assert [row["text"] for row in rows] == ['"open', '""']


def test_a_byte_order_mark_is_dropped(tmp_path):
    assert read_text(tmp_path, b"\xef\xbb\xbftext,label\na,1\n") == [{"text": "a", "label": "1"}]
    assert read_text(tmp_path, b'\xef\xbb\xbf{"text": "a"}\n', "rows.jsonl") == [{"text": "a"}]


# Anything but null bytes and lone surrogates, which are no UTF-8 text.
TEXTS = st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1), min_size=1)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=TEXTS, quote=st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]), tab=st.booleans())
def test_any_texts_come_back_from_csv(tmp_path, texts, quote, tab):
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, quoting=quote, delimiter="\t" if tab else ",", lineterminator="\r\n")
    writer.writerows([["text", "label"], *([text, str(row)] for row, text in enumerate(texts))])
    found = read_text(tmp_path, stream.getvalue(), "rows.tsv" if tab else "rows.csv")
    assert [row["text"] for row in found] == texts


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=TEXTS, ascii_only=st.booleans())
def test_any_texts_come_back_from_json_lines(tmp_path, texts, ascii_only):
    content = "".join(json.dumps({"text": text}, ensure_ascii=ascii_only) + "\n" for text in texts)
    assert [row["text"] for row in read_text(tmp_path, content, "rows.jsonl")] == texts


def test_json_lines_with_gaps_and_kinds_that_differ_between_batches(tmp_path, monkeypatch):
    monkeypatch.setattr("datamodules.sources.json_lines.BATCH_ROWS", 2)
    rows = [{"text": "a", "score": 1}, {"text": "b"}, {"text": "c", "score": 0.5, "tags": ["x"]}]
    content = "\n".join(map(json.dumps, rows))
    assert read_text(tmp_path, content, "rows.jsonl") == [
        {"text": "a", "score": 1.0, "tags": None},
        {"text": "b", "score": None, "tags": None},
        {"text": "c", "score": 0.5, "tags": ["x"]},
    ]


# What JSON can say, but for lone surrogates.
CELLS = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda cells: st.lists(cells, max_size=3) | st.dictionaries(st.sampled_from("abc"), cells, max_size=2),
    max_leaves=5,
)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cells=st.lists(CELLS, min_size=1, max_size=6), batch=st.integers(1, 6))
def test_cells_of_any_kinds_come_back_and_hide_no_other_column(tmp_path, cells, batch):
    content = "".join(json.dumps({"text": "a", "other": cell}) + "\n" for cell in cells)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("datamodules.sources.json_lines.BATCH_ROWS", batch)
        source = FileSource(write(tmp_path, "rows.jsonl", content), "train_file")
        assert read(source, ["text"]) == [{"text": "a"}] * len(cells)
        assert choose_text_columns(source, None) == ("text",)
        found = [row["other"] for row in read(source)]
    if "other" in source.json_columns:
        found = [None if cell is None else json.loads(cell) for cell in found]
    assert found == cells


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ([None, 1, "a"], r"line 3: the column 'label' holds a text, and a number in line 2; a column that is used has"),
        ([0.5, None, True], r"line 3: the column 'label' holds true or false, and a number in line 1; a column that"),
        ([1, 2, 3, ["a"]], r"line 4: the column 'label' holds a list, and a number in line 1; a column that is used"),
        ([None, {"a": 1}], r"line 2: the column 'label' holds an object; a column that is used has texts, numbers or"),
        ([[1], ["a"]], r"lines 1 to 2: the column 'label' cannot be read \(Could not convert 'a' with type str.*\); a"),
        ([[1], [], ["a"]], r"lines 3 to 3: the column 'label' holds list<.*string>, and list<.*int64> before; a colu"),
        ([[{"a": 1}]], r"lines 1 to 1: the column 'label' holds lists of objects; a column that is used has texts"),
        ([2**60, 1, 0.5], r"lines 1 to 2: the column 'label' holds integers beyond 2\*\*53, and fractions; a "),
        ([2**70, 1], r"lines 1 to 2: the column 'label' cannot be read \(Python int too large.*\); a column that is u"),
        (["\ud800"], r"lines 1 to 1: the column 'label' cannot be read \('utf-8' codec can't encode.*\); a column tha"),
    ],
)
def test_a_label_column_of_several_kinds_is_refused_with_its_line(tmp_path, monkeypatch, rows, why):
    monkeypatch.setattr("datamodules.sources.json_lines.BATCH_ROWS", 2)
    content = "".join(json.dumps({"text": "a", "label": cell}) + "\n" for cell in rows)
    source = FileSource(write(tmp_path, "rows.jsonl", content), "train_file")
    for named in (["label"], None):
        with pytest.raises(DataError, match=rf"^label_column: .*rows\.jsonl, {why}") as caught:
            choose_label_columns(source, named, None)
        assert "\n" not in str(caught.value)


def test_a_text_column_of_several_kinds_is_refused_with_its_line(tmp_path):
    content = '{"text": "a", "label": 1}\n{"text": 7, "label": 0}\n'
    source = FileSource(write(tmp_path, "rows.jsonl", content), "train_file")
    why = r"^text_columns: .*rows\.jsonl, line 2: the column 'text' holds a number, and a text in line 1; a column"
    for named in (["text"], None):
        with pytest.raises(DataError, match=why):
            choose_text_columns(source, named)
    with pytest.raises(DataError, match=why):
        choose_label_columns(source, None, None)


def test_a_column_may_have_other_kinds_in_other_files(tmp_path):
    """Shards of a Parquet file of which some have no names, or files of two formats."""
    pa.parquet.write_table(pa.table({"text": ["a"], "id": [1], "n": [1]}), tmp_path / "a.parquet")
    pa.parquet.write_table(pa.table({"text": ["b"], "id": ["x"], "n": [0.5]}), tmp_path / "b.parquet")
    write(tmp_path, "c.csv", "id,text,n\ny,c,1\n")
    files = [str(tmp_path / name) for name in ("a.parquet", "b.parquet")]
    source = FileSource(files, "train_file")
    assert read(source, ["text", "n"]) == [{"text": "a", "n": 1.0}, {"text": "b", "n": 0.5}]
    assert read(source) == [{"text": "a", "id": b"1", "n": 1.0}, {"text": "b", "id": b'"x"', "n": 0.5}]
    with pytest.raises(DataError, match=r"^label_column: .*b\.parquet: the column 'id' holds string, and int64 before"):
        choose_label_columns(source, ["id"], ["text"])
    source = FileSource([*files, str(tmp_path / "c.csv")], "train_file")
    assert read(source, ["text"]) == [{"text": "a"}, {"text": "b"}, {"text": "c"}]
    assert [json.loads(row["n"]) for row in read(source)] == [1, 0.5, "1"]


def test_several_files_and_patterns_in_order(tmp_path):
    for name in ("b", "a", "c"):
        write(tmp_path, f"part_{name}.csv", f"text,label\n{name},1\n")
    assert [row["text"] for row in read(FileSource(str(tmp_path / "part_*.csv"), "train_file"))] == ["a", "b", "c"]
    files = [str(tmp_path / "part_c.csv"), str(tmp_path / "part_[ab].csv")]
    source = FileSource(files, "train_file")
    assert [row["text"] for row in read(source)] == ["c", "a", "b"]
    assert [part.where(0).rpartition("/")[2] for part in source.parts()] == [
        "part_c.csv, row 1",
        "part_a.csv, row 1",
        "part_b.csv, row 1",
    ]


def test_files_of_two_kinds_may_be_one_split(tmp_path):
    files = [
        write(tmp_path, "a.csv", "text,label\na,x\n"),
        write(tmp_path, "b.jsonl", '{"label": "y", "text": "b"}\n'),
    ]
    assert read(FileSource(files, "train_file")) == [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}]


def test_parquet_keeps_its_kinds(tmp_path):
    table = pa.table({"text": ["a", None], "label": [1.5, 2.0], "tags": [["x"], []]})
    pa.parquet.write_table(table, tmp_path / "rows.parquet")
    source = FileSource(str(tmp_path / "rows.parquet"), "train_file")
    assert read(source) == table.to_pylist()
    assert read(source, ["label"]) == [{"label": 1.5}, {"label": 2.0}]


def test_a_saved_data_set(tmp_path):
    features = datasets.Features(text=datasets.Value("string"), label=datasets.ClassLabel(names=["no", "yes"]))
    rows = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [1, 0]}, features=features)
    datasets.DatasetDict(train=rows, dev=rows.select([0])).save_to_disk(tmp_path / "saved")
    splits = load_splits(str(tmp_path / "saved"), None)
    assert sorted(splits) == ["dev", "train"]
    assert read(splits["train"], ["label"]) == [{"label": 1}, {"label": 0}]
    assert splits["train"].label_names == {"label": ["no", "yes"]}
    assert splits["train"].fingerprint() != splits["dev"].fingerprint()
    rows.save_to_disk(tmp_path / "alone")
    assert list(load_splits(str(tmp_path / "alone"), None)) == ["train"]
    with pytest.raises(DataError, match=r"^dataset: cannot load no/such \([^\n]*\); it is a name on the hub, or a fol"):
        load_splits("no/such", None)


def test_the_fingerprint_follows_the_content(tmp_path):
    file = write(tmp_path, "rows.csv", "text,label\na,1\n")
    times = (tmp_path / "rows.csv").stat()
    before = FileSource(file, "train_file").fingerprint()
    assert FileSource(file, "train_file").fingerprint() == before
    assert FileSource(file, "train_file", delimiter=";").fingerprint() != before
    write(tmp_path, "rows.csv", "text,label\nb,1\n")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert FileSource(file, "train_file").fingerprint() != before


def test_long_texts_are_read_in_smaller_batches(tmp_path, monkeypatch):
    texts = [f"{row} " + "word " * 200 for row in range(100)]  # of about 1000 bytes
    monkeypatch.setattr("datamodules.sources.text_source.BATCH_BYTES", 10_000)
    monkeypatch.setattr("datamodules.sources.json_lines.BATCH_BYTES", 10_000)
    rows = datasets.Dataset.from_dict({"text": texts})
    rows.to_parquet(tmp_path / "rows.parquet")
    rows.save_to_disk(tmp_path / "saved")
    write(tmp_path, "rows.jsonl", "".join(json.dumps({"text": text}) + "\n" for text in texts))
    sources = [FileSource(str(tmp_path / f"rows.{suffix}"), "train_file") for suffix in ("jsonl", "parquet")]
    for source in [*sources, load_splits(str(tmp_path / "saved"), None)["train"]]:
        parts = list(source.parts())
        assert max(part.table.nbytes for part in parts) < 15_000, source.place
        assert [part.first_row for part in parts] == [1, *np.cumsum([len(part.table) for part in parts])[:-1] + 1]
        assert read(source, ["text"]) == [{"text": text} for text in texts]


def test_large_files_are_read_in_batches(tmp_path, monkeypatch):
    monkeypatch.setattr("datamodules.sources.file_source.CSV_BLOCK_BYTES", 1000)
    rows = [f'"text {row}, with\nlines",{row % 2}' for row in range(500)]
    file = write(tmp_path, "rows.csv", "text,label\n" + "\n".join(rows))
    parts = list(FileSource(file, "train_file").parts())
    assert len(parts) > 10
    assert [part.first_row for part in parts] == [1, *np.cumsum([len(part.table) for part in parts])[:-1] + 1]
    assert sum(len(part.table) for part in parts) == 500


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.csv", "", r"rows\.csv is empty; its first line must name the columns"),
        ("rows.csv", "text,label\na,1\nb,2,3\n", r"rows\.csv, row 2: 3 cells where the header has 2$"),
        (
            "rows.csv",
            "text;label\na;1\nb, c;2\n",
            r"rows\.csv: the header has one cell, 'text;label'; is ';' the delimiter\? give delimiter$",
        ),
        ("rows.csv", "text,label\na,1\nb\n", r"rows\.csv, row 2: 1 cells where the header has 2; a quote that is not"),
        (
            "rows.csv",
            'text,label\na,1\n"b,2\nc,3\n',
            r"rows\.csv, row 2: 1 cells .*; a quote that is not closed\? quot",
        ),
        (
            "rows.csv",
            b"text,label\na,1\nb\xff,2\n",
            r"rows\.csv, line 3: not UTF-8 text; in Excel save as .CSV UTF-8., or con",
        ),
        ("rows.csv", b"te\xfft,label\na,1\n", r"rows\.csv, line 1: not UTF-8 text; in Excel"),
        ("rows.csv", "text,text\na,1\n", r"rows\.csv: more than one column is named text$"),
        ("rows.csv", "text,label,,\na,1,,\n", r"rows\.csv: more than one column is named ''$"),
        ("rows.jsonl", "", r"rows\.jsonl has no rows$"),
        ("rows.jsonl", '{"text": "a"}\n\n{"text": }\n', r"rows\.jsonl, line 3: not JSON \(Expecting value"),
        ("rows.jsonl", '{"number": ' + 5000 * "1" + "}\n", r"rows\.jsonl, line 1: not JSON \(Exceeds the limit"),
        ("rows.jsonl", '["a"]\n', r"rows\.jsonl, line 1: a JSON list; each line must be an object, as pandas wr"),
        ("rows.jsonl", b'{"text": "\xff"}\n', r"rows\.jsonl, line 1: not UTF-8 text$"),
        ("rows.jsonl", '{"text": "\\ud800"}\n', r"rows\.jsonl, line 1: the column 'text' holds a text that is no"),
        ("rows.jsonl", '{"\\ud800": 1}\n', r"rows\.jsonl: the name of the column '.ud800' is no Unicode text$"),
        ("rows.parquet", "no parquet", r"rows\.parquet: not a Parquet file"),
        ("rows.txt", "a", r"train_file: .*rows\.txt has none of the suffixes \.csv, \.tsv"),
    ],
)
def test_what_is_refused(tmp_path, name, content, message):
    with pytest.raises(DataError, match=message) as caught:
        read_text(tmp_path, content, name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("rows", ["{long}", "short,1\n{long}", "short,1\n{long}\nshort,2"])
def test_a_row_that_is_too_long_is_one_line(tmp_path, monkeypatch, rows):
    monkeypatch.setattr("datamodules.sources.file_source.CSV_BLOCK_BYTES", 1000)
    content = "text,label\n" + rows.format(long='"' + "word " * 1000 + '",0')
    with pytest.raises(DataError, match=r"rows\.csv: a row is longer than 1,000 bytes; a quote that is not closed\? "):
        read_text(tmp_path, content)


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(DataError, match=r"^val_file: there is no file .*rows_\*\.csv$"):
        FileSource(str(tmp_path / "rows_*.csv"), "val_file")
    with pytest.raises(DataError, match=r"^train_file: .* is a folder; name its files, or give dataset for a saved"):
        FileSource(str(tmp_path), "train_file")


def test_a_file_that_two_patterns_match_is_read_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in "ba":
        write(tmp_path, f"{name}.csv", f"text,label\n{name},1\n")
    source = FileSource(["b.csv", "*.csv", str(tmp_path / "a.csv")], "train_file")
    assert [row["text"] for row in read(source)] == ["b", "a"]


def test_files_of_one_split_with_other_columns(tmp_path):
    files = [write(tmp_path, "a.csv", "text,label\na,1\n"), write(tmp_path, "b.csv", "text,stars\na,1\n")]
    source = FileSource(files, "train_file")
    with pytest.raises(DataError, match=r"b\.csv has no column 'label', which other .* its columns are text, stars$"):
        read(source, ["text", "label"])
    assert read(source, ["text"]) == [{"text": "a"}] * 2
    assert read(source) == [{"text": "a", "label": "1", "stars": None}, {"text": "a", "label": None, "stars": "1"}]


def test_shards_of_which_some_lack_a_column_or_are_empty(tmp_path):
    """As JSON lines are where a value is rare, and as Spark writes partitions without rows."""
    pa.parquet.write_table(pa.table({"text": ["a"], "note": [[1]]}), tmp_path / "a.parquet")
    pa.parquet.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "b.parquet")
    pa.parquet.write_table(pa.table({"text": ["c"]}), tmp_path / "c.parquet")
    expected = [{"text": "a", "note": [1]}, {"text": "c", "note": None}]
    assert read(FileSource(str(tmp_path / "*.parquet"), "train_file")) == expected
    write(tmp_path, "a.jsonl", '{"text": "a", "note": [1]}\n')
    write(tmp_path, "b.jsonl", "")
    write(tmp_path, "c.jsonl", '{"text": "c"}\n')
    source = FileSource(str(tmp_path / "*.jsonl"), "train_file")
    assert read(source) == expected
    assert read(source, ["note"]) == [{"note": [1]}, {"note": None}]
    source = FileSource(str(tmp_path / "b.jsonl"), "train_file")
    with pytest.raises(DataError, match=r"b\.jsonl has no rows$"):
        read(source)


def test_empty_texts_are_refused_with_their_row_or_left_out(tmp_path):
    file = write(tmp_path, "rows.csv", 'text,label\na,1\n"",2\n  ,3\nb,4\n')
    (part,) = FileSource(file, "train_file").parts()
    with pytest.raises(DataError, match=r"rows\.csv, row 2: the text in column 'text' is empty; drop_empty leaves"):
        usable_rows(part, ["text"], [], None, drop_empty=False)
    kept = usable_rows(part, ["text"], [], None, drop_empty=True)
    assert kept.table["label"].to_pylist() == ["1", "4"]
    assert kept.where(1).endswith("rows.csv, row 4")
