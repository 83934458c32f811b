"""Table of the GLUE tasks: columns, labels, metrics, files and row counts of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from datamodules.errors import DataError

ENTAILMENT_3 = ("entailment", "neutral", "contradiction")
ENTAILMENT_2 = ("entailment", "not_entailment")


@dataclass(frozen=True)
class Task:
    """One task of GLUE (Wang et al. 2018, arXiv 1804.07461): its columns, labels, metrics and files.

    Args:
        name: Name of the task, also its configuration name in ``nyu-mll/glue``.
        text_columns: The hub's text columns, one or two.
        label_names: Names of the classes in the hub's order; empty for regression.
        metrics: GLUE's metrics for the task, among accuracy, f1, matthews, pearson and spearman.
        folder: Name of the task's folder in the official layout.
        row_counts: Published number of rows per split; its keys are the task's splits, in the hub's order.
        submission_files: The leaderboard's file name per test split.
        tsv_text_columns: Headings of the text columns in the official files, in the order of ``text_columns``.
        tsv_label_column: Heading of the label column in the official files.
        label_words: Whether labels are words in official files and on the leaderboard, and not numbers.
        headerless_columns: Columns of the training and validation files, if these have no header line.
        skips_malformed_rows: Whether the official training file has a few rows with missing columns, which are left
            out.
        tsv_files: File names by split where these differ from train.tsv, dev.tsv, test.tsv; the first one that exists
            is read.
    """

    name: str
    text_columns: tuple[str, ...]
    label_names: tuple[str, ...]
    metrics: tuple[str, ...]
    folder: str
    row_counts: Mapping[str, int]
    submission_files: Mapping[str, str]
    tsv_text_columns: tuple[str, ...]
    tsv_label_column: str
    label_words: bool = False
    headerless_columns: tuple[str, ...] = ()
    skips_malformed_rows: bool = False
    tsv_files: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def is_regression(self) -> bool:
        """Whether the label is a score (STS-B: 0 to 5)."""
        return not self.label_names

    @property
    def num_labels(self) -> int:
        """Number of classes; 1 for regression."""
        return len(self.label_names) or 1

    @property
    def splits(self) -> tuple[str, ...]:
        """All splits, by the hub's names."""
        return tuple(self.row_counts)

    @property
    def validation_splits(self) -> tuple[str, ...]:
        """The validation splits: one, two for mnli, none for ax."""
        return tuple(split for split in self.splits if split.startswith("validation"))

    @property
    def test_splits(self) -> tuple[str, ...]:
        """The test splits: one, two for mnli."""
        return tuple(split for split in self.splits if split.startswith("test"))

    @property
    def eval_set_names(self) -> tuple[str, ...]:
        """Names of the evaluation splits: ("matched", "mismatched") for mnli, otherwise ("",)."""
        return tuple(split.partition("_")[2] for split in self.test_splits)

    @property
    def label_texts(self) -> tuple[str, ...]:
        """The classes as in official files and on the leaderboard: words or numbers."""
        return self.label_names if self.label_words else tuple(str(label) for label in range(len(self.label_names)))

    def file_names(self, split: str) -> tuple[str, ...]:
        """Return the possible file names of a split in the official layout, the preferred one first."""
        return self.tsv_files.get(split) or (split.replace("validation", "dev") + ".tsv",)


def _counts(train: int, validation: int, test: int) -> dict[str, int]:
    return {"train": train, "validation": validation, "test": test}


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task(
            name="cola",
            text_columns=("sentence",),
            label_names=("unacceptable", "acceptable"),
            metrics=("matthews",),
            folder="CoLA",
            row_counts=_counts(8551, 1043, 1063),
            submission_files={"test": "CoLA.tsv"},
            tsv_text_columns=("sentence",),
            tsv_label_column="label",
            headerless_columns=("source", "label", "original_label", "sentence"),
        ),
        Task(
            name="sst2",
            text_columns=("sentence",),
            label_names=("negative", "positive"),
            metrics=("accuracy",),
            folder="SST-2",
            row_counts=_counts(67349, 872, 1821),
            submission_files={"test": "SST-2.tsv"},
            tsv_text_columns=("sentence",),
            tsv_label_column="label",
        ),
        Task(
            name="mrpc",
            text_columns=("sentence1", "sentence2"),
            label_names=("not_equivalent", "equivalent"),
            metrics=("accuracy", "f1"),
            folder="MRPC",
            row_counts=_counts(3668, 408, 1725),
            submission_files={"test": "MRPC.tsv"},
            tsv_text_columns=("#1 String", "#2 String"),
            tsv_label_column="Quality",
        ),
        Task(
            name="qqp",
            text_columns=("question1", "question2"),
            label_names=("not_duplicate", "duplicate"),
            metrics=("accuracy", "f1"),
            folder="QQP",
            row_counts=_counts(363846, 40430, 390965),
            submission_files={"test": "QQP.tsv"},
            tsv_text_columns=("question1", "question2"),
            tsv_label_column="is_duplicate",
            skips_malformed_rows=True,
        ),
        Task(
            name="stsb",
            text_columns=("sentence1", "sentence2"),
            label_names=(),
            metrics=("pearson", "spearman"),
            folder="STS-B",
            row_counts=_counts(5749, 1500, 1379),
            submission_files={"test": "STS-B.tsv"},
            tsv_text_columns=("sentence1", "sentence2"),
            tsv_label_column="score",
        ),
        Task(
            name="mnli",
            text_columns=("premise", "hypothesis"),
            label_names=ENTAILMENT_3,
            metrics=("accuracy",),
            folder="MNLI",
            row_counts={
                "train": 392702,
                "validation_matched": 9815,
                "validation_mismatched": 9832,
                "test_matched": 9796,
                "test_mismatched": 9847,
            },
            submission_files={"test_matched": "MNLI-m.tsv", "test_mismatched": "MNLI-mm.tsv"},
            tsv_text_columns=("sentence1", "sentence2"),
            tsv_label_column="gold_label",
            label_words=True,
        ),
        Task(
            name="qnli",
            text_columns=("question", "sentence"),
            label_names=ENTAILMENT_2,
            metrics=("accuracy",),
            folder="QNLI",
            row_counts=_counts(104743, 5463, 5463),
            submission_files={"test": "QNLI.tsv"},
            tsv_text_columns=("question", "sentence"),
            tsv_label_column="label",
            label_words=True,
        ),
        Task(
            name="rte",
            text_columns=("sentence1", "sentence2"),
            label_names=ENTAILMENT_2,
            metrics=("accuracy",),
            folder="RTE",
            row_counts=_counts(2490, 277, 3000),
            submission_files={"test": "RTE.tsv"},
            tsv_text_columns=("sentence1", "sentence2"),
            tsv_label_column="label",
            label_words=True,
        ),
        Task(
            name="wnli",
            text_columns=("sentence1", "sentence2"),
            label_names=("not_entailment", "entailment"),
            metrics=("accuracy",),
            folder="WNLI",
            row_counts=_counts(635, 71, 146),
            submission_files={"test": "WNLI.tsv"},
            tsv_text_columns=("sentence1", "sentence2"),
            tsv_label_column="label",
        ),
        Task(
            name="ax",
            text_columns=("premise", "hypothesis"),
            label_names=ENTAILMENT_3,
            metrics=("matthews",),
            folder="diagnostic",
            row_counts={"test": 1104},
            submission_files={"test": "AX.tsv"},
            tsv_text_columns=("sentence1", "sentence2"),
            tsv_label_column="label",
            label_words=True,
            # diagnostic-full.tsv has the rows of diagnostic.tsv with labels, which were published later.
            tsv_files={"test": ("diagnostic-full.tsv", "diagnostic.tsv")},
        ),
    )
}


def find_task(name: str) -> Task:
    """Return the task of that name.

    Raises:
        DataError: No such task; the message lists the names.
    """
    if name not in TASKS:
        raise DataError(f"unknown task_name {name!r}; the tasks are {', '.join(TASKS)}")
    return TASKS[name]
