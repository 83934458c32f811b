from __future__ import annotations

import pytest

from datamodules import TASKS, DataError
from datamodules.glue.glue_tasks import find_task


def test_the_names_are_the_hubs():
    assert list(TASKS) == ["cola", "sst2", "mrpc", "qqp", "stsb", "mnli", "qnli", "rte", "wnli", "ax"]


def test_row_counts_are_as_published():
    published = {
        "cola": (8551, 1043, 1063),
        "sst2": (67349, 872, 1821),
        "mrpc": (3668, 408, 1725),
        "qqp": (363846, 40430, 390965),
        "stsb": (5749, 1500, 1379),
        "mnli": (392702, 9815, 9832, 9796, 9847),
        "qnli": (104743, 5463, 5463),
        "rte": (2490, 277, 3000),
        "wnli": (635, 71, 146),
        "ax": (1104,),
    }
    assert {name: tuple(task.row_counts.values()) for name, task in TASKS.items()} == published


def test_entailment_is_the_first_label_except_for_wnli():
    assert [name for name, task in TASKS.items() if task.label_names[:1] == ("entailment",)] == [
        "mnli",
        "qnli",
        "rte",
        "ax",
    ]
    assert TASKS["wnli"].label_names == ("not_entailment", "entailment")


def test_words_and_numbers_of_labels():
    assert TASKS["rte"].label_texts == ("entailment", "not_entailment")
    assert TASKS["cola"].label_texts == ("0", "1")
    assert TASKS["wnli"].label_texts == ("0", "1")
    assert TASKS["stsb"].label_texts == ()
    assert [task.num_labels for task in TASKS.values()] == [2, 2, 2, 2, 1, 3, 2, 2, 2, 3]


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_every_test_split_has_a_submission_file_and_an_evaluation_set(task):
    assert tuple(task.submission_files) == task.test_splits
    assert len(task.eval_set_names) == len(task.test_splits)
    assert len(task.tsv_text_columns) == len(task.text_columns)


def test_mnli_has_two_evaluation_sets():
    assert TASKS["mnli"].eval_set_names == ("matched", "mismatched")
    assert TASKS["mnli"].validation_splits == ("validation_matched", "validation_mismatched")
    assert TASKS["mnli"].file_names("validation_mismatched") == ("dev_mismatched.tsv",)


def test_an_unknown_task_is_named_with_those_allowed():
    with pytest.raises(DataError, match=r"unknown task_name 'sst5'; the tasks are cola, sst2, .*, ax$"):
        find_task("sst5")
